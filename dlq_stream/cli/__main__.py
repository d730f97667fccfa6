"""``python -m dlq_stream.cli``, for where the script is not on the path."""

from dlq_stream.cli import main

if __name__ == "__main__":
    main(prog_name="dlq-stream")
