"""Traffic: the payloads of one round go through the channel, and are counted."""

from __future__ import annotations

from dataclasses import replace

from dtheta.federate.channels.channel import Channel, Delivery
from dtheta.federate.message import Failure, Reply, Task
from dtheta.federate.party import answer_key
from dtheta.federate.payload import Payload


class Traffic:
    """What travels in a round.

    Attributes:
        bits_up, bits_down: Of the payloads that were sent, also of those that were lost.
        qubits: Either way.
        replies: Payloads of answers.
        qber: Largest quantum bit error rate that a test found; None without a test.
        seconds: Simulated, by client.
    """

    def __init__(self, channel: Channel, seed: int) -> None:
        self.channel, self.seed = channel, seed
        self.bits_up = self.bits_down = self.qubits = self.replies = 0
        self._messages = 0
        self.qber: float | None = None
        self.seconds: dict[str, float] = {}

    @property
    def slowest(self) -> float:
        """Seconds that the slowest client's payloads took."""
        return max(self.seconds.values(), default=0.0)

    def down(self, task: Task) -> Failure | None:
        """Send a task's payloads; return why it did not arrive."""
        for i, payload in enumerate(task.payloads):
            self.bits_down += payload.bits
            sent = self._send(payload, task.client, f"federate/{task.round}/{task.client}/task/{i}")
            if sent.payload is None:
                return _lost(task, sent)
            if sent.payload != payload:
                return Failure(task.client, task.round, "corrupted", "the global delta did not arrive as it was sent")
        return None

    def up(self, answer: Reply | Failure, task: Task) -> Reply | Failure:
        """Send an answer's payloads; return it as it arrived, or why it did not."""
        if isinstance(answer, Failure):
            return answer
        arrived = []
        for payload in answer.payloads:
            self.bits_up, self.replies = self.bits_up + payload.bits, self.replies + 1
            sent = self._send(payload, task.client, answer_key(task))
            if sent.payload is None:
                return _lost(task, sent)
            arrived.append(sent.payload)
        return replace(answer, payloads=tuple(arrived))

    def message(self, client: str, round: int, text: bytes, what: str) -> bytes | None:
        """Send a message of a secure sum, "up" or "down"; return what arrives, None for nothing."""
        if what.startswith("up"):
            self.bits_up += 8 * len(text)
        else:
            self.bits_down += 8 * len(text)
        number = self._messages = self._messages + 1
        sent = self._send(Payload(text, 8 * len(text)), client, f"federate/{round}/{client}/{what}/{number}")
        return None if sent.payload is None else sent.payload.data

    def _send(self, payload: Payload, client: str, key: str) -> Delivery:
        sent = self.channel.send(payload, seed=self.seed, key=key)
        self.qubits += sent.qubits
        self.seconds[client] = self.seconds.get(client, 0.0) + sent.seconds
        if sent.verdict is not None and sent.verdict.qber is not None:
            self.qber = max(self.qber or 0.0, sent.verdict.qber.estimate)
        return sent


def _lost(task: Task, sent: Delivery) -> Failure:
    reason, _, detail = (sent.reason or "lost").partition(": ")
    return Failure(task.client, task.round, reason if reason in ("lost", "aborted") else "lost", detail or reason)
