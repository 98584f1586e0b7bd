"""Answer /v1/chat/completions on loopback as a batching server does, at little cost of its own.

vLLM answers as many requests at once as its batch has places, each after about the same time, and
lets the others wait. So does this server: `--places` at once, each after `--latency` seconds. It
prints its address. When standard input ends, it prints how many requests it answered in each second
since the first one, and how many were waiting, as JSON.

    python tests/helpers/batching_server.py --places 600 --latency 0.2
"""

import argparse
import asyncio
import collections
import json
import sys
import time

ANSWER = json.dumps(
    {
        "choices": [
            {
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": "A brown dog sleeps on a red sofa."},
            }
        ],
        "usage": {"prompt_tokens": 900, "completion_tokens": 10},
    }
).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
RESPONSE = HEAD % len(ANSWER) + ANSWER
END = b"\r\n\r\n"


class Batch:
    """The places of the batch, those who wait for one, and the counts by second."""

    def __init__(self, places: int, latency: float):
        self.free, self.latency = places, latency
        self.waiting: collections.deque[asyncio.Transport] = collections.deque()
        self.began: float | None = None
        self.answered: collections.Counter[int] = collections.Counter()
        self.most_waiting: collections.Counter[int] = collections.Counter()

    def enter(self, transport: asyncio.Transport) -> None:
        self.began = self.began or time.monotonic()
        if not self.free:
            self.waiting.append(transport)
            second = int(time.monotonic() - self.began)
            self.most_waiting[second] = max(self.most_waiting[second], len(self.waiting))
            return
        self.free -= 1
        asyncio.get_running_loop().call_later(self.latency, self.leave, transport)

    def leave(self, transport: asyncio.Transport) -> None:
        self.answered[int(time.monotonic() - self.began)] += 1
        transport.write(RESPONSE)
        self.free += 1
        if self.waiting:
            self.enter(self.waiting.popleft())


class Connection(asyncio.Protocol):
    """One connection, whose requests come one after the other."""

    def __init__(self, batch: Batch):
        self.batch, self.received = batch, b""

    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.received += data
        while (head := self.received.find(END)) >= 0:
            lines = self.received[:head].lower()
            length = int(lines.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self.received) < (end := head + len(END) + length):
                return
            self.received = self.received[end:]
            self.batch.enter(self.transport)


async def serve(places: int, latency: float) -> dict:
    batch = Batch(places, latency)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(batch), "127.0.0.1", 0, backlog=4096)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()
    seconds = range(max(batch.answered, default=-1) + 1)
    return {
        "answered": [batch.answered[k] for k in seconds],
        "waiting": [batch.most_waiting[k] for k in seconds],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--places", type=int, default=600)
    parser.add_argument("--latency", type=float, default=0.2)
    args = parser.parse_args()
    print(json.dumps(asyncio.run(serve(args.places, args.latency))))


if __name__ == "__main__":
    main()
