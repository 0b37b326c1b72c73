import sys

from dynamodb_sessions.ops.cli import main

if __name__ == "__main__":
    sys.exit(main())
