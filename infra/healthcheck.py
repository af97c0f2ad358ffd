"""Ask the service beside us whether it is ready: exit 0 if it is, 1 with its reasons if not.

For HEALTHCHECK. Only the standard library, so that it starts in a moment: it runs every few seconds in every container.
"""

import http.client
import os
import sys

TIMEOUT_SECONDS = 3.0


def main() -> int:
    port = int(os.environ.get("WARDMESH_HEALTH_PORT", "9090"))
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("GET", "/ready")
        answer = connection.getresponse()
        body = answer.read(4096).decode("utf-8", "replace")
    except OSError as error:
        sys.stdout.write(f"not answering: {error}\n")
        return 1
    sys.stdout.write(body + "\n")
    return 0 if answer.status == http.client.OK else 1


if __name__ == "__main__":
    sys.exit(main())
