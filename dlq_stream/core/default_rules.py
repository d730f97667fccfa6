"""What well-known errors of Python and Java mean, where a queue's own rules do not say.

By type first: time-outs, broken connections, throttling and brokers on the move pass by themselves; what is wrong with
the record stays wrong.  Names without dots fit that class in any package, which is how the same idea is named across
libraries; dotted ones are for names that mean something else elsewhere.  TRANSIENT comes before PERMANENT: where an
error is both (a ``ValueError`` raised from a ``TimeoutError``), a retry in vain is cheaper than giving up too early.

Then by message, for libraries that put the status into the text (HTTP clients, botocore, gRPC, librdkafka).  Bare
numbers are not looked for: "503" is also a temperature.
"""

from __future__ import annotations

from itertools import product

from dlq_stream.core.model import ErrorCategory
from dlq_stream.core.rule import Rule

# Which of the two it is depends on the certificate and the clock; its base class ValueError must not decide.
_UNKNOWN_TYPES = """
    SSLCertVerificationError CertificateError
"""

_TRANSIENT_TYPES = """
    TimeoutError TimeoutException Timeout
    ConnectionError ConnectionResetError ConnectionAbortedError ConnectionRefusedError BrokenPipeError
    IncompleteReadError socket.timeout socket.gaierror RemoteDisconnected http.client.IncompleteRead

    ChunkedEncodingError NewConnectionError urllib3.exceptions.ProtocolError MaxRetryError
    ConnectTimeout ReadTimeout WriteTimeout PoolTimeout ConnectError httpx.ReadError httpx.WriteError
    RemoteProtocolError
    ClientConnectionError ClientConnectorError ClientOSError ServerConnectionError ServerDisconnectedError
    ServerTimeoutError ConnectionTimeoutError SocketTimeoutError ClientPayloadError

    ReadTimeoutError ConnectTimeoutError EndpointConnectionError ConnectionClosedError HTTPClientError
    ThrottlingException ThrottledException TooManyRequestsException TooManyRequests RequestLimitExceeded
    ProvisionedThroughputExceededException SlowDown ServiceUnavailable
    ServiceUnavailableException ServiceUnavailableError DeadlineExceeded ResourceExhausted GatewayTimeout BadGateway
    RateLimitError RateLimitExceeded

    PostgresConnectionError ConnectionDoesNotExistError ConnectionFailureError CannotConnectNowError
    TooManyConnectionsError DeadlockDetectedError asyncpg.exceptions.SerializationError
    QueryCanceledError LockNotAvailableError AdminShutdownError CrashShutdownError InsufficientResourcesError
    DeadlockDetected SerializationFailure QueryCanceled LockNotAvailable AdminShutdown CannotConnectNow
    TooManyConnections
    psycopg.OperationalError psycopg2.OperationalError sqlalchemy.exc.OperationalError pymysql.err.OperationalError
    redis.exceptions.BusyLoadingError AutoReconnect NetworkTimeout ServerSelectionTimeoutError

    KafkaTimeoutError KafkaConnectionError NodeNotReadyError RequestTimedOutError NotEnoughReplicasError
    LeaderNotAvailableError NotLeaderForPartitionError CoordinatorNotAvailableError NoBrokersAvailable

    SocketTimeoutException ConnectTimeoutException ReadTimeoutException WriteTimeoutException
    HttpTimeoutException HttpConnectTimeoutException RequestTimeoutException QueryTimeoutException
    ConnectException ConnectionException SocketException NoRouteToHostException PortUnreachableException
    UnknownHostException ClosedChannelException HttpHostConnectException NoHttpResponseException
    ConnectionClosedException ResourceAccessException RequestNotPermitted
    SQLTransientException SQLTransientConnectionException SQLRecoverableException SQLTimeoutException
    TransientDataAccessException CannotAcquireLockException DeadlockLoserDataAccessException

    org.apache.kafka.common.errors.RetriableException
    DisconnectException NetworkException RebalanceInProgressException ThrottlingQuotaExceededException
    NotEnoughReplicasException NotEnoughReplicasAfterAppendException LeaderNotAvailableException
    NotLeaderOrFollowerException NotLeaderForPartitionException CoordinatorNotAvailableException
    CoordinatorLoadInProgressException NotCoordinatorException BrokerNotAvailableException
    ReplicaNotAvailableException KafkaStorageException UnknownTopicOrPartitionException
"""

_PERMANENT_TYPES = """
    ValueError TypeError KeyError UnicodeError UnicodeDecodeError UnicodeEncodeError JSONDecodeError

    ValidationError ValidationException SchemaError SchemaException SchemaParseException SchemaValidationError
    DecodeError DecodingError EncodeError SerializationError DeserializationError
    KeyDeserializationError ValueDeserializationError
    KeySerializationError ValueSerializationError ParamValidationError
    DataError NotNullViolationError CheckViolationError NotNullViolation CheckViolation
    UndefinedTableError UndefinedColumnError UndefinedTable UndefinedColumn

    IllegalArgumentException NumberFormatException ClassCastException ArrayStoreException InputMismatchException
    DateTimeException DateTimeParseException UnsupportedTemporalTypeException ParseException
    MalformedURLException URISyntaxException
    CharacterCodingException MalformedInputException UnmappableCharacterException UTFDataFormatException
    CharConversionException UnsupportedEncodingException UnsupportedCharsetException
    StreamCorruptedException InvalidClassException InvalidObjectException NotSerializableException
    java.util.zip.DataFormatException

    SchemaValidationException InvalidSchemaException IncompatibleSchemaException JsonSchemaException
    ConstraintViolationException MethodArgumentNotValidException MethodArgumentTypeMismatchException
    TypeMismatchException org.springframework.validation.BindException WebExchangeBindException
    ServerWebInputException

    JsonProcessingException JsonParseException JsonEOFException JsonGenerationException JsonMappingException
    StreamReadException StreamWriteException InputCoercionException DatabindException MismatchedInputException
    InvalidFormatException InvalidNullException PropertyBindingException UnrecognizedPropertyException
    IgnoredPropertyException InvalidDefinitionException InvalidTypeIdException ValueInstantiationException
    JsonSyntaxException MalformedJsonException JsonParsingException JSONException
    InvalidProtocolBufferException InvalidWireTypeException UninitializedMessageException
    AvroTypeException AvroMissingFieldException UnresolvedUnionException org.apache.avro.message.BadHeaderException
    SAXParseException javax.xml.bind.UnmarshalException jakarta.xml.bind.UnmarshalException
    HttpMessageConversionException HttpMessageNotReadableException HttpMessageNotWritableException
    MessageConversionException ConversionException ConversionFailedException DeserializationException

    SerializationException RecordDeserializationException RecordTooLargeException InvalidRecordException
    org.apache.kafka.connect.errors.DataException SchemaBuilderException SchemaProjectorException
    SQLDataException SQLSyntaxErrorException SQLIntegrityConstraintViolationException
"""

_STATUSES = ("429", "502", "503", "504")

# requests; httpx; aiohttp; and how people word it themselves.
_STATUS_WORDINGS = (
    "{} client error",
    "{} server error",
    "client error '{} ",
    "server error '{} ",
    "{}, message=",
    "status {}",
    "status: {}",
    "status={}",
    "status code {}",
    "status code: {}",
    "http {}",
)

_TRANSIENT_TEXTS = (
    "timed out",
    "timeout",
    "time-out",
    "connection reset",
    "connection refused",
    "connection aborted",
    "connection closed",
    "broken pipe",
    "temporarily unavailable",
    "temporary failure",
    "bad gateway",
    "gateway time",
    "service unavailable",
    "too many requests",
    "rate limit",
    "throttl",
    "deadline exceeded",
    "deadline_exceeded",
    "resource_exhausted",
    "statuscode.unavailable",
    "unavailable: ",
    "slow down",
    "slowdown",
    "requestlimitexceeded",
    "provisionedthroughputexceeded",
    "deadlock",
    "_timed_out",
    "_transport",
    "_all_brokers_down",
    "leader_not_available",
    "not_enough_replicas",
)


def _types(names: str, category: ErrorCategory) -> list[Rule]:
    return [Rule("type", name, category) for name in names.split()]


DEFAULT_RULES: tuple[Rule, ...] = (
    *_types(_UNKNOWN_TYPES, ErrorCategory.UNKNOWN),
    *_types(_TRANSIENT_TYPES, ErrorCategory.TRANSIENT),
    *_types(_PERMANENT_TYPES, ErrorCategory.PERMANENT),
    *(Rule("text", text, ErrorCategory.TRANSIENT) for text in _TRANSIENT_TEXTS),
    *(
        Rule("text", wording.format(status), ErrorCategory.TRANSIENT)
        for wording, status in product(_STATUS_WORDINGS, _STATUSES)
    ),
)
"""Tried in this order after a queue's own rules."""
