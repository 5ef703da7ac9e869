"""A local HTTP server of a few files, in place of those that data sets are downloaded from."""

import contextlib
import dataclasses
import http.server
import threading
from collections.abc import Iterator


@dataclasses.dataclass
class FileServer:
    """Attributes: address, ending in "/"; files by path, which may change; paths of all requests so far."""

    address: str
    files: dict[str, bytes]
    requests: list[str] = dataclasses.field(default_factory=list)
    cut: bool = False
    """Send only half of every file, and close the connection."""
    chunked: bool = False
    """Do not state the length, as GitHub's archives do not."""


@contextlib.contextmanager
def serving(files: dict[str, bytes]) -> Iterator[FileServer]:
    """Serve `files`, path → content; anything else is answered with 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.requests.append(self.path[1:])
            content = files.get(self.path[1:])
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header(*(("Transfer-Encoding", "chunked") if state.chunked else ("Content-Length", len(content))))
            self.end_headers()
            sent = content[: len(content) // 2] if state.cut else content
            if state.chunked:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(sent), sent) + (b"" if state.cut else b"0\r\n\r\n"))
            else:
                self.wfile.write(sent)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state = FileServer(f"http://127.0.0.1:{server.server_address[1]}/", files)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()
