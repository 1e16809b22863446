"""Channels as the federation uses them: deliveries, verdicts, costs, and configuration."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dtheta.core.change import Dense
from dtheta.core.delta import Delta
from dtheta.errors import ConfigError, FormatError, NonFinite
from dtheta.federate.channels import (
    Classical,
    InterceptResend,
    PhotonNumberSplitting,
    Pulses,
    Quantum,
    channel_of,
)
from dtheta.federate.channels.bb84 import detection_probability, key_fraction
from dtheta.federate.codecs.amplitude import Amplitude
from dtheta.federate.frame import Frame
from dtheta.federate.payload import Payload

BITS = Payload(b"x" * 1000, 8000)
STATE = Payload(b"", 64, 18 * 1000, 1000)


def test_a_classical_channel_delivers_the_payload_itself():
    sent = Classical(latency=0.5, bandwidth=16_000).send(BITS, seed=0, key="a")
    assert sent.payload is BITS and sent.seconds == 1.0 and sent.verdict is None and sent.qubits == 0


def test_classical_loss_has_its_share_and_depends_on_the_key_alone():
    channel = Classical(loss=0.3, latency=0.1)
    sent = [channel.send(BITS, seed=0, key=str(i)) for i in range(2000)]
    lost = [delivery for delivery in sent if delivery.payload is None]
    assert abs(len(lost) - 600) < 4 * math.sqrt(2000 * 0.21)
    assert all(delivery.reason == "lost" and delivery.seconds == 0.1 for delivery in lost)
    assert [channel.send(BITS, seed=0, key=str(i)) for i in (5, 3)] == [sent[5], sent[3]]


def test_ends_of_loss():
    assert Classical(loss=1.0).send(BITS, seed=0, key="a").payload is None
    assert Classical(loss=0.0).send(BITS, seed=0, key="a").payload is BITS


def test_a_state_does_not_pass_a_classical_channel():
    with pytest.raises(ConfigError, match="quantum state"):
        Classical().send(STATE, seed=0, key="a")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Classical(loss=1.5),
        lambda: Classical(latency=-1),
        lambda: Classical(bandwidth=0),
        lambda: Classical(loss="much"),  # type: ignore[arg-type]
        lambda: Quantum(-1),
        lambda: Quantum(1, attenuation=-0.1),
        lambda: Quantum(1, decoys=-1),
        lambda: Quantum(1, error=0.2),
        lambda: Quantum(1, threshold=0),
        lambda: Quantum(1, significance=1),
        lambda: Quantum(1, rate=0),
        lambda: Quantum(1, eavesdropper=PhotonNumberSplitting()),
        lambda: Quantum(1, eavesdropper="eve"),  # type: ignore[arg-type]
        lambda: InterceptResend(1.5),
    ],
)
def test_what_cannot_be_a_channel_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def test_what_is_not_finite_is_refused():
    with pytest.raises(NonFinite):
        Quantum(math.inf)


def test_copies_arrive_whole_or_not():
    channel = Quantum(1, decoys=0)
    eta = 10**-0.02
    assert channel.transmittance == pytest.approx(eta)
    arrived = [channel.send(STATE, seed=0, key=str(i)).payload for i in range(200)]
    counts = [payload.copies for payload in arrived if payload is not None and payload.copies is not None]
    mean, p = sum(counts) / len(counts), eta**18
    assert len(counts) == 200 and abs(mean - 1000 * p) < 4 * math.sqrt(1000 * p * (1 - p) / 200)
    assert all(payload is not None and payload.qubits == 18 * (payload.copies or 0) for payload in arrived)
    assert all(payload is not None and payload.mixed == 0 for payload in arrived)


def test_a_lossless_channel_delivers_every_copy_and_counts_decoys():
    sent = Quantum(0, decoys=500).send(STATE, seed=0, key="a")
    assert sent.payload == STATE and sent.qubits == 18_500
    assert sent.verdict is not None and not sent.verdict.aborted and 150 < sent.verdict.checked < 350
    assert sent.verdict.errors == 0


def test_no_copy_left_is_a_loss_with_a_reason():
    sent = Quantum(200, decoys=10**5).send(STATE, seed=0, key="a")
    assert sent.payload is None and sent.reason is not None and sent.reason.startswith("lost: none of 1000 copies")
    assert sent.qubits == 18_000 + 10**5


def test_a_zero_state_needs_no_copies():
    nothing = Payload(b"", 64, 0, 0)
    assert Quantum(50, decoys=10**4).send(nothing, seed=0, key="a").payload == nothing


def test_noise_and_listening_mix_copies():
    noisy, tapped = Quantum(0, decoys=0, error=0.02), Quantum(0, decoys=0, eavesdropper=InterceptResend(0.1))
    for channel, clean in ((noisy, 0.97**18), (tapped, 0.95**18)):
        payload = channel.send(STATE, seed=0, key="a").payload
        assert payload is not None and abs(payload.mixed - 1000 * (1 - clean)) < 4 * math.sqrt(
            1000 * clean * (1 - clean)
        )


def test_mixed_copies_shrink_what_is_read_and_make_it_noisier():
    delta = Delta({"a": Dense(torch.tensor([3.0, 0.0, -4.0]))})
    frame, codec = Frame.of(delta), Amplitude(shots=4000)
    sent = codec.encode(delta, frame, seed=0, key="x")
    read = [
        torch.stack(
            [
                codec.decode(replace(sent, mixed=mixed), frame, cap=10**6, seed=0, key=str(i))["a"].dense()
                for i in range(100)
            ]
        )
        for mixed in (0, 3000, 4000)
    ]
    exact = delta["a"].dense()
    for found, kept in zip(read, (1.0, 0.25, 0.0), strict=True):
        assert ((found.mean(0) - kept * exact).abs() < 5 * found.std(0) / 10).all(), kept
    for mixed in (-1, 4001):
        with pytest.raises(FormatError, match="mixed"):
            codec.decode(replace(sent, mixed=mixed), frame, cap=10**6, seed=0, key="x")


def test_an_eavesdropper_is_caught_as_often_as_the_curve_says():
    channel = Quantum(0, decoys=100, eavesdropper=InterceptResend(0.1))
    sent = [channel.send(STATE, seed=0, key=str(i)) for i in range(1000)]
    caught = sum(delivery.payload is None for delivery in sent)
    mean = math.fsum(math.comb(100, m) / 2**100 * detection_probability(0.1, m) for m in range(101))
    assert abs(caught - 1000 * mean) < 4 * math.sqrt(1000 * mean * (1 - mean))
    reasons = {delivery.reason.split(":")[0] for delivery in sent if delivery.reason}
    assert reasons == {"aborted"}
    assert all(delivery.qubits == 18_100 for delivery in sent)


@pytest.mark.parametrize("payload", [BITS, STATE], ids=["bits", "state"])
@pytest.mark.parametrize("error", [0.0, 0.02, 0.05])
def test_without_an_eavesdropper_at_most_the_significance_is_given_up(payload, error):
    channel = Quantum(1, error=error, significance=0.05)
    aborted = sum(channel.send(payload, seed=0, key=str(i)).payload is None for i in range(400))
    assert aborted <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_without_an_eavesdropper_at_most_the_significance_of_pulses_is_given_up():
    channel = Quantum(50, error=0.01, pulses=Pulses(), significance=0.05)
    sent = [channel.send(BITS, seed=0, key=str(i)) for i in range(400)]
    assert sum(delivery.payload is None for delivery in sent) <= 400 * 0.05 + 3 * math.sqrt(400 * 0.05 * 0.95)


def test_bits_travel_under_a_key_whose_qubits_count():
    sent = Quantum(0, decoys=1000).send(BITS, seed=0, key="a")
    assert sent.payload is BITS and sent.qubits == 1000 + 2 * 8000
    assert sent.verdict is not None and sent.verdict.key_rate == 1.0
    noisy = Quantum(50, decoys=10_000, error=0.02).send(BITS, seed=0, key="a")
    assert noisy.verdict is not None and noisy.verdict.qber is not None
    fraction = key_fraction(max(0.02, noisy.verdict.qber.estimate))
    assert noisy.verdict.key_rate == fraction
    assert noisy.qubits == pytest.approx(10_000 + 2 * 8000 / fraction / 0.1, rel=1e-3)
    assert noisy.seconds == pytest.approx(50 / 2e5 + noisy.qubits / 1e8)


def test_a_key_that_is_left_no_bits_is_no_key():
    # 10 % is below the threshold, but error correction and privacy amplification leave nothing
    sent = Quantum(0, decoys=10_000, error=0.1).send(BITS, seed=0, key="a")
    assert sent.payload is None and sent.reason is not None and "no key is left" in sent.reason
    assert sent.qubits == 10_000


def test_a_key_that_nothing_tests_is_refused():
    with pytest.raises(ConfigError, match="decoys"):
        Quantum(0, decoys=0).send(BITS, seed=0, key="a")


def test_where_nothing_arrives_nothing_is_trusted():
    sent = Quantum(3000).send(BITS, seed=0, key="a")
    assert sent.payload is None and "no decoy arrived" in str(sent.reason)
    pulses = Quantum(3000, pulses=Pulses(dark=0.0)).send(BITS, seed=0, key="a")
    assert pulses.payload is None and "no signal pulse arrived" in str(pulses.reason)


def test_splitting_is_caught_by_decoy_states_and_not_without():
    fiber = {"kilometers": 50, "error": 0.01, "eavesdropper": PhotonNumberSplitting()}
    with_decoys = Quantum(**fiber, pulses=Pulses()).send(BITS, seed=0, key="a")
    assert with_decoys.payload is None and "decoy states bound the yield" in str(with_decoys.reason)
    assert with_decoys.verdict is not None and with_decoys.verdict.single_yield == 0
    assert with_decoys.verdict.p_value > 1e-3  # its errors are those of the channel: the test of errors sees nothing
    without = Quantum(**fiber, pulses=Pulses(decoys=False)).send(BITS, seed=0, key="a")
    assert without.payload is BITS and without.verdict is not None and not without.verdict.aborted


def test_a_quiet_line_brings_a_key_by_pulses():
    quiet = Quantum(50, error=0.01, pulses=Pulses(), significance=1e-6)  # at 1e-3 one of 1000 is given up
    sent = [quiet.send(BITS, seed=0, key=str(i)) for i in range(50)]
    assert all(delivery.payload is BITS for delivery in sent)
    rates = [delivery.verdict.key_rate for delivery in sent if delivery.verdict and delivery.verdict.key_rate]
    trusted = Quantum(50, error=0.01, pulses=Pulses(decoys=False)).send(BITS, seed=0, key="0").verdict
    assert trusted is not None and trusted.key_rate is not None
    assert len(rates) == 50 and 0.7 * trusted.key_rate < min(rates) and max(rates) < trusted.key_rate


def test_long_keys_take_more_pulses():
    long = Payload(b"", 10**9)
    sent = Quantum(50, error=0.01, pulses=Pulses()).send(long, seed=0, key="a")
    assert sent.verdict is not None and sent.verdict.key_rate
    assert sent.qubits == math.ceil(10**9 / (0.7 * sent.verdict.key_rate)) > 10**8


def test_interception_of_pulses_shows_in_their_errors():
    sent = Quantum(50, error=0.01, pulses=Pulses(), eavesdropper=InterceptResend(0.1)).send(BITS, seed=0, key="a")
    assert sent.payload is None and sent.reason is not None and "QBER 3.4" in sent.reason


def test_a_state_does_not_travel_in_weak_pulses():
    with pytest.raises(ConfigError, match="single photons"):
        Quantum(1, pulses=Pulses()).send(STATE, seed=0, key="a")


@pytest.mark.parametrize(
    "channel",
    [
        Classical(loss=0.1, bandwidth=1e6),
        Quantum(20, eavesdropper=InterceptResend(0.2)),
        Quantum(20, eavesdropper=PhotonNumberSplitting(), pulses=Pulses(weak=0.05, shares=(0.8, 0.1, 0.1))),
    ],
)
def test_configuration_goes_round(channel):
    assert channel_of(channel.to_dict()) == channel
    assert channel_of(channel) is channel


def test_channels_by_name():
    assert channel_of("classical") == Classical()
    found = channel_of({"name": "quantum", "kilometers": 20, "eavesdropper": "intercept-resend"})
    assert found == Quantum(20, eavesdropper=InterceptResend())


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("clasical", "did you mean 'classical'"),
        ({"kilometers": 3}, "expected its name"),
        (3, "expected its name"),
        ("quantum", "needs 'kilometers'"),
        ({"name": "quantum", "km": 3}, "no field 'km'"),
        ({"name": "quantum", "kilometers": "far"}, "kilometers"),
        (
            {"name": "quantum", "kilometers": 3, "eavesdropper": {"name": "intercept"}},
            "no eavesdropper is called 'intercept'; did you mean 'intercept-resend'",
        ),
        ({"name": "quantum", "kilometers": 3, "pulses": {"signl": 1}}, "did you mean 'signal'"),
    ],
)
def test_what_is_no_channel_is_refused(value, message):
    with pytest.raises(ConfigError, match=message):
        channel_of(value)
