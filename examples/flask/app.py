import os
import signal
import socket
import threading

from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)


@app.route("/")
def hello():
    name = request.args.get("name", "World")
    return f"{os.environ.get('GREETING', 'Hello')} {name}! I am {socket.gethostname()}.\n"


@app.route("/healthz")
def healthz():
    return "ok\n"


if __name__ == "__main__":
    server = make_server("0.0.0.0", 80, app, threaded=True)
    # Requests that are being answered are answered to their end.
    server.daemon_threads = False
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print("serving on port 80", flush=True)
    server.serve_forever()
    server.server_close()
