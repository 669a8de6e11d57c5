"""A model behind a server as a function of rows: retries, limits and counts; every row that was put is counted."""

import email.utils
import importlib
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mi_jax.querying.protocols import Malformed, protocol_of

_RETRIED = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 30.0  # seconds between two tries, where the server does not say more


class _Again(Exception):
    """A request that failed and may be put again, after the seconds that the server asks for."""

    def __init__(self, reason: str, after: float = 0.0):
        super().__init__(reason)
        self.after = after


class Server:
    """A function of rows (an array [B *x] or a data frame) -> answers [B] or [B C] of the model behind a URL.

    The URL's path tells the protocol (`protocols.protocol_of`). Rows go in requests of at most `rows_per_request`, up
    to `max_in_flight` at the same time and `rate` a second. A request without a whole, well-formed answer is put again,
    after a random, growing pause or what Retry-After asks for, until `deadline` seconds have passed since it was first
    put; `timeout` is for one try. Statuses 408, 425, 429 and from 500 on are tried again, others are not. Answers are
    those of all rows, in their order, or a ValueError in one line.

    `put` counts the rows of every request that was sent, also of those that got no answer; `retried` those beyond one
    request for each row. Certificates are verified. The token is the value of the environment variable
    `token_variable`; it is sent to the URL's host alone and stands in no message. Redirects to another host are
    refused.
    """

    def __init__(self, url: str, *, token_variable: str | None = None, timeout: float = 30.0, deadline: float = 600.0,
                 rate: float | None = None, rows_per_request: int = 256, max_in_flight: int = 4):  # fmt: skip
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url={url!r:.100}: expected http(s)://HOST/...")
        self.name = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
        self.protocol = protocol_of(parts.path)
        for what, value in (("timeout", timeout), ("deadline", deadline), ("rate", rate or 1.0)):
            if not value > 0:
                raise ValueError(f"{what}={value}: expected a number above 0")
        for what, value in (("rows_per_request", rows_per_request), ("max_in_flight", max_in_flight)):
            if value < 1:
                raise ValueError(f"{what}={value}: expected at least 1")
        self.deadline, self.rows_per_request, self.max_in_flight = deadline, rows_per_request, max_in_flight
        self.put = self.answered = self._sent = 0
        self._url, self._gap, self._next = url, 1 / rate if rate else 0.0, 0.0
        self._lock, self._client = threading.Lock(), self._connect(token_variable, timeout)

    @property
    def retried(self) -> int:
        """Rows put again, or without an answer."""
        return self.put - self.answered

    def __repr__(self) -> str:
        return f"Server({self.name})"

    def __call__(self, rows: Any) -> np.ndarray:
        """The answers to all rows."""
        number, size = len(rows), self.rows_per_request
        parts = [_part(rows, start, min(start + size, number)) for start in range(0, number, size)]
        if len(parts) == 1:
            return self._ask(parts[0])
        with ThreadPoolExecutor(self.max_in_flight) as pool:
            futures = [pool.submit(self._ask, part) for part in parts]
            try:
                return np.concatenate([future.result() for future in futures])
            except BaseException:
                for future in futures:
                    future.cancel()
                raise

    def _connect(self, token_variable: str | None, timeout: float) -> Any:
        try:
            self._httpx: Any = importlib.import_module("httpx")
            self._tenacity: Any = importlib.import_module("tenacity")
        except ImportError as error:
            raise ValueError(f"a server needs {error.name}: expected pip install 'mi_jax[server]'") from None
        headers = {}
        if token_variable:
            if not os.environ.get(token_variable):
                raise ValueError(f"token_variable={token_variable}: the environment has no such variable with a value")
            headers["Authorization"] = f"Bearer {os.environ[token_variable]}"
        limits = self._httpx.Limits(max_connections=self.max_in_flight)
        return self._httpx.Client(headers=headers, timeout=timeout, limits=limits, follow_redirects=False)

    def _ask(self, rows: Any) -> np.ndarray:
        """The answers to the rows of one request, which is put until it has them."""
        tenacity = self._tenacity
        pause = tenacity.wait_random_exponential(multiplier=0.1, max=_LONGEST_WAIT)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Again),
            wait=lambda state: max(pause(state), state.outcome.exception().after),
            stop=tenacity.stop_before_delay(self.deadline),
            reraise=True,
        )
        with self._lock:
            self._sent += 1
            number = str(self._sent)
        body = self.protocol.request(rows, number)
        try:
            return retrying(self._try, body, len(rows), number)
        except _Again as error:
            reason = f"no answer to {len(rows)} rows in {self.deadline:g} seconds"
            raise ValueError(f"{self.name}: {reason} ({error}); expected one") from None

    def _try(self, body: dict, number: int, request: str) -> np.ndarray:
        self._wait()
        response = self._post(body, number)
        if response.is_redirect:
            raise ValueError(f"{self.name}: redirects to another place, expected an answer there")
        if response.status_code in _RETRIED or response.status_code >= 500:
            raise _Again(f"status {response.status_code}", _after(response.headers.get("Retry-After")))
        if response.status_code != 200:
            said = " ".join(response.text.split())[:200]
            raise ValueError(f"{self.name}: status {response.status_code} ({said}), expected 200")
        try:
            answers = self.protocol.response(response.json(), number, request)
        except Malformed as error:
            raise _Again(str(error)) from None
        except ValueError:
            raise _Again("answered no JSON") from None
        with self._lock:
            self.answered += number
        return answers

    def _post(self, body: dict, number: int) -> Any:
        httpx = self._httpx
        try:
            with self._lock:
                self.put += number
            return self._client.post(self._url, json=body)
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            with self._lock:
                self.put -= number  # it was never sent
            raise _Again(f"cannot connect: {type(error).__name__}") from None
        except httpx.TransportError as error:
            raise _Again(type(error).__name__) from None

    def _wait(self) -> None:
        """Waits for this request's turn where requests have a rate."""
        with self._lock:
            now = time.monotonic()
            turn = max(self._next, now)
            self._next = turn + self._gap
        if turn > now:
            time.sleep(turn - now)


def _part(rows: Any, start: int, end: int) -> Any:
    if hasattr(rows, "iloc"):
        return rows.iloc[start:end]
    return rows.slice(start, end - start) if hasattr(rows, "slice") else rows[start:end]


def _after(header: str | None, now: Callable[[], float] = time.time) -> float:
    """The seconds of a Retry-After header: a number or a date; 0 for none or another."""
    if header is None:
        return 0.0
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now())
    except (TypeError, ValueError):
        return 0.0
