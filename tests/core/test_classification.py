"""Classification: what well-known errors mean, the order of rules, and the engine that core does not bring."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from dlq_stream.core.classification import Classifier, Decision, plans_cached_max
from dlq_stream.core.default_rules import DEFAULT_RULES
from dlq_stream.core.errors import ConfigurationError
from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.rule import Rule, RuleKind, pattern_chars_max, short_name

TRANSIENT, PERMANENT, UNKNOWN = ErrorCategory.TRANSIENT, ErrorCategory.PERMANENT, ErrorCategory.UNKNOWN
DEFAULTS = Classifier()


def compile_re2(pattern: str) -> Callable[[str], bool]:
    """What the worker injects."""
    options = re2.Options()
    options.log_errors = False
    compiled = re2.compile(pattern, options)
    return lambda text: compiled.search(text) is not None


def types_of(error: type) -> list[str]:
    """An error's types as a reporter names them: dotted, the bases after it."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in error.__mro__ if cls is not object]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (TimeoutError, TRANSIENT),
        (ConnectionResetError, TRANSIENT),
        (ConnectionRefusedError, TRANSIENT),
        (BrokenPipeError, TRANSIENT),
        (ValueError, PERMANENT),
        (TypeError, PERMANENT),
        (KeyError, PERMANENT),
        (UnicodeDecodeError, PERMANENT),
        (OSError, UNKNOWN),
        (RuntimeError, UNKNOWN),
        (AttributeError, UNKNOWN),
        (Exception, UNKNOWN),
        (MemoryError, UNKNOWN),
    ],
)
def test_builtin_errors(error: type, expected: ErrorCategory) -> None:
    """By the class and its bases, with and without the module's name."""
    assert DEFAULTS.classify(types_of(error), "").category is expected
    assert DEFAULTS.classify([error.__name__], "").category is expected


@pytest.mark.parametrize(
    "name",
    [
        "asyncio.exceptions.TimeoutError",
        "socket.gaierror",
        "http.client.RemoteDisconnected",
        "requests.exceptions.ReadTimeout",
        "requests.exceptions.ConnectTimeout",
        "requests.exceptions.ConnectionError",
        "urllib3.exceptions.MaxRetryError",
        "httpx.ConnectTimeout",
        "httpx.PoolTimeout",
        "httpx.ReadError",
        "httpx.RemoteProtocolError",
        "aiohttp.client_exceptions.ServerDisconnectedError",
        "aiohttp.client_exceptions.ClientConnectorError",
        "asyncpg.exceptions.DeadlockDetectedError",
        "asyncpg.exceptions.SerializationError",
        "asyncpg.exceptions.TooManyConnectionsError",
        "psycopg.OperationalError",
        "psycopg.errors.SerializationFailure",
        "sqlalchemy.exc.OperationalError",
        "botocore.exceptions.EndpointConnectionError",
        "botocore.exceptions.ReadTimeoutError",
        "aiokafka.errors.KafkaTimeoutError",
        "redis.exceptions.TimeoutError",
        "google.api_core.exceptions.ServiceUnavailable",
        "google.api_core.exceptions.TooManyRequests",
        "openai.RateLimitError",
        "java.net.SocketTimeoutException",
        "java.net.ConnectException",
        "java.net.UnknownHostException",
        "java.util.concurrent.TimeoutException",
        "java.sql.SQLTransientConnectionException",
        "java.sql.SQLRecoverableException",
        "org.springframework.web.client.HttpClientErrorException$TooManyRequests",
        "org.springframework.web.client.HttpServerErrorException$ServiceUnavailable",
        "org.apache.kafka.common.errors.RetriableException",
        "org.apache.kafka.common.errors.TimeoutException",
        "org.apache.kafka.common.errors.NotLeaderOrFollowerException",
        "org.apache.kafka.common.errors.ThrottlingQuotaExceededException",
        "software.amazon.awssdk.services.dynamodb.model.ProvisionedThroughputExceededException",
    ],
)
def test_errors_that_pass(name: str) -> None:
    """Time-outs, broken connections, throttling: by the name alone, dotted or not where that is unambiguous."""
    assert DEFAULTS.classify([name], "").category is TRANSIENT


@pytest.mark.parametrize(
    "name",
    [
        "json.decoder.JSONDecodeError",
        "pydantic_core._pydantic_core.ValidationError",
        "jsonschema.exceptions.ValidationError",
        "jsonschema.exceptions.SchemaError",
        "marshmallow.exceptions.ValidationError",
        "msgspec.DecodeError",
        "google.protobuf.message.DecodeError",
        "httpx.DecodingError",
        "confluent_kafka.error.ValueDeserializationError",
        "confluent_kafka.serialization.SerializationError",
        "botocore.exceptions.ParamValidationError",
        "asyncpg.exceptions.NotNullViolationError",
        "psycopg.DataError",
        "java.lang.IllegalArgumentException",
        "java.lang.NumberFormatException",
        "java.lang.ClassCastException",
        "java.time.format.DateTimeParseException",
        "java.nio.charset.MalformedInputException",
        "com.fasterxml.jackson.core.JsonParseException",
        "com.fasterxml.jackson.databind.exc.MismatchedInputException",
        "com.fasterxml.jackson.core.io.JsonEOFException",
        "com.fasterxml.jackson.core.exc.StreamReadException",
        "com.fasterxml.jackson.core.exc.InputCoercionException",
        "com.fasterxml.jackson.databind.JsonMappingException",
        "com.fasterxml.jackson.databind.exc.InvalidFormatException",
        "com.fasterxml.jackson.databind.exc.InvalidNullException",
        "com.fasterxml.jackson.databind.exc.UnrecognizedPropertyException",
        "com.fasterxml.jackson.databind.exc.ValueInstantiationException",
        "tools.jackson.databind.DatabindException",
        "com.google.gson.JsonSyntaxException",
        "com.google.gson.stream.MalformedJsonException",
        "org.json.JSONException",
        "jakarta.json.stream.JsonParsingException",
        "jakarta.validation.ConstraintViolationException",
        "jakarta.xml.bind.UnmarshalException",
        "org.xml.sax.SAXParseException",
        "javax.validation.ValidationException",
        "org.everit.json.schema.ValidationException",
        "com.networknt.schema.JsonSchemaException",
        "java.io.StreamCorruptedException",
        "java.io.InvalidClassException",
        "java.time.DateTimeException",
        "java.time.temporal.UnsupportedTemporalTypeException",
        "java.net.URISyntaxException",
        "java.util.zip.DataFormatException",
        "com.google.protobuf.InvalidProtocolBufferException",
        "com.google.protobuf.InvalidProtocolBufferException$InvalidWireTypeException",
        "com.google.protobuf.UninitializedMessageException",
        "org.apache.avro.AvroTypeException",
        "org.apache.avro.SchemaParseException",
        "org.apache.avro.SchemaValidationException",
        "org.apache.avro.UnresolvedUnionException",
        "org.apache.avro.message.BadHeaderException",
        "io.confluent.kafka.schemaregistry.exceptions.InvalidSchemaException",
        "io.confluent.kafka.schemaregistry.exceptions.IncompatibleSchemaException",
        "org.apache.kafka.common.errors.SerializationException",
        "org.apache.kafka.common.errors.RecordDeserializationException",
        "org.apache.kafka.connect.errors.DataException",
        "org.apache.kafka.connect.errors.SchemaBuilderException",
        "org.springframework.kafka.support.serializer.DeserializationException",
        "org.springframework.kafka.support.converter.ConversionException",
        "org.springframework.http.converter.HttpMessageNotReadableException",
        "org.springframework.validation.BindException",
        "org.springframework.web.method.annotation.MethodArgumentTypeMismatchException",
    ],
)
def test_errors_that_stay(name: str) -> None:
    """Validation, schema, type, key and decoding errors: what is wrong with the record stays wrong."""
    assert DEFAULTS.classify([name], "").category is PERMANENT


@pytest.mark.parametrize(
    "name",
    [
        "java.lang.NullPointerException",
        "java.lang.RuntimeException",
        "java.lang.IllegalStateException",
        "java.util.NoSuchElementException",  # of a pool's, too, when it waited in vain
        "java.net.BindException",
        "java.rmi.UnmarshalException",
        "java.security.cert.CertPathValidatorException",
        "java.security.cert.CertificateException",
        "javax.xml.stream.XMLStreamException",
        "org.apache.avro.AvroRuntimeException",
        "org.springframework.security.oauth2.jwt.JwtValidationException",
        "io.confluent.kafka.schemaregistry.client.rest.exceptions.RestClientException",
        "org.apache.kafka.common.KafkaException",
        "app.DataException",
        "botocore.exceptions.ClientError",
        "requests.exceptions.HTTPError",
        "tarfile.ReadError",
        "app.errors.Odd",
        "",
    ],
)
def test_errors_that_say_nothing(name: str) -> None:
    """What is not known is not guessed at."""
    assert DEFAULTS.classify([name], "") == Decision(UNKNOWN, "no rule")


@pytest.mark.parametrize(
    "message",
    [
        "503 Server Error: Service Unavailable for url: http://x",
        "429 Client Error:  for url: http://x",
        "Server error '502 Bad Gateway' for url 'http://x'",
        "Client error '429 Too Many Requests' for url 'http://x'",
        "429, message='', url='http://x'",
        "request failed with status code 504",
        "HTTP 503",
        "An error occurred (ThrottlingException) when calling the PutItem operation: Rate exceeded",
        'KafkaError{code=_TIMED_OUT,val=-185,str="Local: Timed out"}',
        "KafkaError{code=_ALL_BROKERS_DOWN,val=-187}",
        "UNAVAILABLE: io exception",
        "StatusCode.DEADLINE_EXCEEDED",
        "[Errno 104] Connection reset by peer",
        "Temporary failure in name resolution",
        "could not serialize access: Deadlock found",
    ],
)
def test_messages_that_say_it(message: str) -> None:
    """Libraries that put the status into the text."""
    assert DEFAULTS.classify(["app.HTTPError"], message).category is TRANSIENT
    assert DEFAULTS.classify(["app.HTTPError"], message.upper()).category is TRANSIENT


@pytest.mark.parametrize(
    "message", ["", "503", "temperature 429 above 400", "404 Client Error: Not Found", "500 Server Error"]
)
def test_messages_that_do_not(message: str) -> None:
    """A bare number is not a status."""
    assert DEFAULTS.classify(["app.HTTPError"], message).category is UNKNOWN


def test_a_type_outweighs_a_message() -> None:
    """What the class says is not undone by a word in its text."""
    assert DEFAULTS.classify(["ValueError"], "invalid timeout").category is PERMANENT


def test_transient_comes_before_permanent() -> None:
    """A retry in vain is cheaper than giving up too early, whichever of the two is the cause."""
    assert DEFAULTS.classify(["ValueError", "Exception", "TimeoutError"], "").category is TRANSIENT


def test_what_could_not_be_read_for_want_of_a_connection_is_transient() -> None:
    """A deserializer that cannot reach its schema registry fails like one that cannot read; its cause tells."""
    names = ["org.apache.kafka.common.errors.SerializationException", "org.apache.kafka.common.KafkaException"]
    message = "Error retrieving Avro schema for id 7"
    assert DEFAULTS.classify(names, message).category is PERMANENT
    assert DEFAULTS.classify([*names, "java.net.ConnectException"], message).category is TRANSIENT


def test_certificates_are_not_values() -> None:
    """SSLCertVerificationError is a ValueError to Python, and yet may pass with the next certificate."""
    import ssl

    decision = DEFAULTS.classify(types_of(ssl.SSLCertVerificationError), "certificate has expired")
    assert decision == Decision(UNKNOWN, "default type SSLCertVerificationError")


def test_the_first_rule_that_fits_decides() -> None:
    """Rules of all kinds are one list: position counts, not kind, and the default ones come last."""
    classifier = Classifier(
        [
            Rule("text", "Sensor Offline", PERMANENT),
            Rule("type", "app.SensorError", TRANSIENT),
            Rule("regex", r"code \d+", UNKNOWN),
            Rule("type", "SensorError", PERMANENT),
            Rule("type", "TimeoutError", PERMANENT),
        ],
        compile_re2,
    )
    classify = classifier.classify
    assert classify(["app.SensorError"], "sensor offline") == Decision(PERMANENT, "text Sensor Offline")
    assert classify(["app.SensorError"], "code 7") == Decision(TRANSIENT, "type app.SensorError")
    assert classify(["lib.SensorError"], "code 7") == Decision(UNKNOWN, r"regex code \d+")
    assert classify(["lib.SensorError"], "code x") == Decision(PERMANENT, "type SensorError")
    assert classify(["app.Special", "app.SensorError", "Exception"], "") == Decision(TRANSIENT, "type app.SensorError")
    assert classify(["TimeoutError"], "") == Decision(PERMANENT, "type TimeoutError")
    assert classify(["KeyError"], "") == Decision(PERMANENT, "default type KeyError")
    assert classify(["Odd"], "it TIMED OUT") == Decision(TRANSIENT, "default text timed out")


def test_a_type_rule_fits_dotted_and_class_names_and_inner_classes() -> None:
    """A name without dots is that class in any package; one with dots is that one."""
    short = Classifier([Rule("type", "Busy", PERMANENT)])
    dotted = Classifier([Rule("type", "a.b.Busy", PERMANENT)])
    for types in (["Busy"], ["a.b.Busy"], ["a.b.Outer$Busy"], ["x", "c.Busy"]):
        assert short.classify(types, "").category is PERMANENT
    assert dotted.classify(["a.b.Busy"], "").category is PERMANENT
    for types in (["Busy"], ["c.Busy"], ["x.a.b.Busy"], ["a.b.busy"]):
        assert dotted.classify(types, "").category is UNKNOWN


@pytest.mark.parametrize(
    ("name", "short"), [("Busy", "Busy"), ("a.b.Busy", "Busy"), ("a.Outer$Busy", "Busy"), ("", ""), ("a.", "")]
)
def test_short_names(name: str, short: str) -> None:
    """What people call a class."""
    assert short_name(name) == short


def test_core_has_no_regex_engine() -> None:
    """A regex rule without an engine is a mistake in configuration, found at once, with the fix."""
    with pytest.raises(ConfigurationError, match=r"rule regex 'a\+': .*google-re2"):
        Classifier([Rule("regex", "a+", TRANSIENT)])


@pytest.mark.parametrize("pattern", ["(", "a{9999}", r"(?=x)", r"(a)\1"])
def test_a_pattern_that_the_engine_does_not_take(pattern: str) -> None:
    """Whatever the engine raises becomes an error that names the rule."""
    with pytest.raises(ConfigurationError, match=r"rule regex .*: does not compile"):
        Classifier([Rule("regex", pattern, TRANSIENT)], compile_re2)


def test_a_catastrophic_pattern_is_harmless_with_a_linear_engine() -> None:
    """What makes backtracking engines run for years."""
    classifier = Classifier([Rule("regex", "(a+)+$", PERMANENT)], compile_re2)
    assert classifier.classify(["E"], "a" * 2000 + "b").category is UNKNOWN


@pytest.mark.parametrize(
    ("kind", "pattern", "category", "named"),
    [
        ("class", "X", TRANSIENT, "rule kind: 'class' is not one of type, text, regex"),
        ("type", "", TRANSIENT, "rule pattern: ''"),
        ("text", "x" * (pattern_chars_max + 1), TRANSIENT, "1 to 1000 characters"),
        ("text", "x", "transient", "rule category: 'transient' is not one of transient, permanent, unknown"),
    ],
)
def test_rules_that_make_no_sense(kind: RuleKind, pattern: str, category: ErrorCategory, named: str) -> None:
    """A rule is checked when it exists."""
    with pytest.raises(ConfigurationError) as caught:
        Rule(kind, pattern, category)
    assert named in str(caught.value)


def test_default_rules_have_no_repeats() -> None:
    """A name that is listed twice would mean one thing and say two."""
    listed = [(rule.kind, rule.pattern) for rule in DEFAULT_RULES]
    assert len(listed) == len(set(listed))


def test_memory_is_bounded() -> None:
    """Error types that never repeat do not pile up."""
    classifier = Classifier()
    for number in range(plans_cached_max + 100):
        classifier.classify([f"Odd{number}"], "")
    assert classifier._plan.cache_info().currsize == plans_cached_max


def _by_the_book(rules: list[Rule], types: list[str], message: str) -> Decision:
    for rule in rules:
        if rule.kind == "type":
            fits = rule.pattern in types or rule.pattern in [short_name(name) for name in types]
        else:
            fits = rule.pattern.lower() in message.lower()
        if fits:
            return Decision(rule.category, str(rule))
    return Decision(UNKNOWN, "no rule")


@given(
    rules=st.lists(
        st.builds(
            Rule,
            st.sampled_from(["type", "text"]),
            st.sampled_from(["Q", "p.Q", "R", "p.R"]),
            st.sampled_from(ErrorCategory),
        )
    ),
    types=st.lists(st.sampled_from(["Q", "p.Q", "x$R", "R", "S"])),
    message=st.text("pqr.R", max_size=6),
)
def test_plans_decide_as_the_list_of_rules_does(rules: list[Rule], types: list[str], message: str) -> None:
    """Boiling the rules down per combination of types changes nothing; nor does it matter when they are asked."""
    classifier, expected = Classifier(rules), _by_the_book(rules, types, message)
    assert classifier.classify(types, message) == expected
    assert classifier.decided(tuple(types)) in (None, expected)


def test_only_where_messages_have_a_say_they_are_waited_for() -> None:
    """A rule by type that comes first decides by itself; one that follows a rule by text does not."""
    rules = [Rule("type", "First", PERMANENT), Rule("text", "later", TRANSIENT), Rule("type", "Second", PERMANENT)]
    classifier = Classifier(rules)
    assert classifier.decided(("First",)) == Decision(PERMANENT, "type First")
    assert classifier.decided(("Second",)) is None


@given(st.lists(st.text()), st.text())
def test_classify_takes_any_text(types: list[str], message: str) -> None:
    """Nothing in an error's words makes it fail."""
    assert DEFAULTS.classify(types, message).category in ErrorCategory
