"""A loopback server that speaks Telegram's Bot API, as core.telegram.org/bots/api describes it, and no more of it.

A test writes and presses as a person does, and reads what the bot sent. Requests are checked by the documentation: a
field that it does not have, or a text that is too long, is answered with 400.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw"  # the example of Telegram's documentation
BOT_ID = 110201543
BOT = {"id": BOT_ID, "is_bot": True, "first_name": "Desk", "username": "desk_bot"}
FIELDS = {
    "getMe": (),
    "getUpdates": ("offset", "limit", "timeout", "allowed_updates"),
    "sendMessage": ("chat_id", "text", "reply_markup", "disable_notification"),
    "answerCallbackQuery": ("callback_query_id", "text", "show_alert"),
}
ANN = 4711


class Telegram:
    """The server's side. `faults` are answers that the next requests of a method get instead of their own."""

    def __init__(self) -> None:
        self.port = 0
        self.token = TOKEN
        self.sent: list[dict[str, Any]] = []  # results of sendMessage, with their reply_markup
        self.toasts: list[dict[str, Any]] = []
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.faults: list[tuple[str, int, dict[str, Any]]] = []  # method, status, answer
        self.skew_s = 0  # of this server's clock before the host's
        self._updates: list[dict[str, Any]] = []
        self._next, self._message, self._ended = 874_000_001, 1, False
        self._changed = threading.Condition()

    @property
    def api(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def texts(self) -> list[str]:
        """What the bot sent, in its order."""
        return [message["text"] for message in self.sent]

    def now_s(self) -> int:
        """Telegram's time."""
        return int(time.time()) + self.skew_s

    # --- a person -----------------------------------------------------------------------------------------------------

    def write(self, text: str, user: int = ANN, chat: int | None = None, *, age_s: int = 0, **more: Any) -> int:
        """A person writes; returns the update's number."""
        return self.update({"message": self.message(text, user, chat, age_s, **more)})

    def edit(self, text: str, user: int = ANN) -> int:
        """A person edits a message."""
        return self.update({"edited_message": self.message(text, user, None, 0) | {"edit_date": self.now_s()}})

    def press(self, label: str, user: int = ANN, message: dict[str, Any] | None = None) -> int:
        """A person presses a button of a message, of the newest one that has some."""
        shown = message or next(sent for sent in reversed(self.sent) if "reply_markup" in sent)
        row = shown["reply_markup"]["inline_keyboard"][0]
        data = next(button["callback_data"] for button in row if button["text"] == label)
        query = {"id": f"{self._next}77", "from": person(user), "message": shown, "chat_instance": "-7", "data": data}
        return self.update({"callback_query": query})

    def update(self, content: dict[str, Any], number: int | None = None) -> int:
        """Something happens."""
        with self._changed:
            chosen = self._next if number is None else number
            self._updates.append({"update_id": chosen, **content})
            self._next = max(self._next, chosen) + 1
            self._changed.notify_all()
        return chosen

    def message(
        self, text: str, user: int = ANN, chat: int | None = None, age_s: int = 0, **more: Any
    ) -> dict[str, Any]:
        """Return Telegram's Message of a person's text."""
        self._message += 1
        where = {"id": user, "type": "private"} if chat is None else {"id": chat, "type": "group", "title": "Desks"}
        return {
            "message_id": self._message, "from": person(user), "chat": where, "date": self.now_s() - age_s,
            "text": text, **more,
        }  # fmt: skip

    def until_confirmed(self) -> None:
        """Return once the bot has confirmed every update. Raises AssertionError."""
        self.until(lambda: not self._updates)

    def until_sent(self, count: int, limit_s: float = 120.0) -> list[str]:
        """Return all texts once there are so many. Raises AssertionError."""
        self.until(lambda: len(self.sent) >= count, limit_s)
        return self.texts

    def until(self, reached: Callable[[], bool], limit_s: float = 120.0) -> None:
        """Return when it is so. Raises AssertionError."""
        with self._changed:
            assert self._changed.wait_for(reached, limit_s), (self.texts, self.asked[-3:])

    # --- the bot ------------------------------------------------------------------------------------------------------

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Return status and answer of a request."""
        token, _, method = path.removeprefix("/bot").partition("/")
        fields = json.loads(body or b"{}")
        with self._changed:
            self.asked.append((method, fields))
            self._changed.notify_all()
            fault = next((fault for fault in self.faults if fault[0] == method), None)
            if fault is not None:
                self.faults.remove(fault)
                return fault[1:]
        if token != self.token:
            return 401, {"ok": False, "error_code": 401, "description": "Unauthorized"}
        if method not in FIELDS:
            return 404, {"ok": False, "error_code": 404, "description": "Not Found"}
        problem = next((name for name in fields if name not in FIELDS[method]), "")
        if problem:
            return bad(f"no field {problem}")
        answer: tuple[int, dict[str, Any]] = getattr(self, "_" + re.sub("([A-Z])", r"_\1", method).lower())(**fields)
        return answer

    def _get_me(self) -> tuple[int, dict[str, Any]]:
        return good(BOT)

    def _get_updates(self, offset: int = 0, limit: int = 100, timeout: int = 0, allowed_updates: Any = ()) -> Any:
        with self._changed:
            if offset:  # all before it are confirmed, and forgotten
                self._updates = [one for one in self._updates if one["update_id"] >= offset]
                self._changed.notify_all()
            self._changed.wait_for(lambda: self._due(allowed_updates) or self._ended or self.faults, timeout)
            return good(self._due(allowed_updates)[:limit])

    def _due(self, kinds: Any) -> list[dict[str, Any]]:
        return [one for one in self._updates if not kinds or any(kind in one for kind in kinds)]

    def _send_message(self, chat_id: int, text: str, reply_markup: Any = None, **_: Any) -> Any:
        if not 1 <= len(text) <= 4096:
            return bad("message is too long" if text else "message text is empty")
        rows = (reply_markup or {}).get("inline_keyboard", [])
        if any(not 1 <= len(button["callback_data"].encode()) <= 64 for row in rows for button in row):
            return bad("BUTTON_DATA_INVALID")
        with self._changed:
            self._message += 1
            made = {"message_id": self._message, "from": BOT, "chat": {"id": chat_id, "type": "private"}}
            made |= {"date": self.now_s(), "text": text} | ({"reply_markup": reply_markup} if rows else {})
            self.sent.append(made)
            self._changed.notify_all()
        return good(made)

    def _answer_callback_query(self, callback_query_id: str, text: str = "", **_: Any) -> Any:
        with self._changed:
            self.toasts.append({"id": callback_query_id, "text": text})
            self._changed.notify_all()
        return bad("text is too long") if len(text) > 200 else good(True)

    def end(self) -> None:
        """Let requests that are held go."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def person(user: int) -> dict[str, Any]:
    """Telegram's User."""
    return {"id": user, "is_bot": False, "first_name": "Ann"}


def good(result: Any) -> tuple[int, dict[str, Any]]:
    """Return the answer of a request that went well."""
    return 200, {"ok": True, "result": result}


def bad(why: str) -> tuple[int, dict[str, Any]]:
    """Return the answer of a wrong request."""
    return 400, {"ok": False, "error_code": 400, "description": f"Bad Request: {why}"}


def too_many(after_s: int) -> tuple[int, dict[str, Any]]:
    """Return the answer of flood control."""
    text = f"Too Many Requests: retry after {after_s}"
    return 429, {"ok": False, "error_code": 429, "description": text, "parameters": {"retry_after": after_s}}


@contextmanager
def telegram(port: int = 0) -> Iterator[Telegram]:
    """Serve for the time of a `with`."""
    made = Telegram()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status, answer = made.answer(self.path, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            body = json.dumps(answer).encode()
            with contextlib.suppress(ConnectionError):  # who asked is gone
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def date_time_string(self, timestamp: float | None = None) -> str:
            return super().date_time_string(made.now_s() if timestamp is None else timestamp)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.end()
        server.shutdown()
        server.server_close()
        thread.join()
