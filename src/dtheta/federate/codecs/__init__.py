"""Codecs: how a delta travels.

codec.py       encode, decode                 planes.py, entries.py    a delta's entries as one vector
dense.py       every entry as a number        top_k.py                 the largest entries
exact.py       in the form that it has        low_rank.py              the leading singular vectors
ternary.py     signs of the largest entries   amplitude.py             copies of a quantum state
sign.py        one bit an entry               feedback.py              what was left out, in the next round
registry.py    codecs by name                 reader.py                streams, read with every length checked
"""

from dtheta.federate.codecs.amplitude import Amplitude as Amplitude
from dtheta.federate.codecs.codec import Codec as Codec
from dtheta.federate.codecs.dense import Dense as Dense
from dtheta.federate.codecs.exact import Exact as Exact
from dtheta.federate.codecs.feedback import Feedback as Feedback
from dtheta.federate.codecs.low_rank import LowRank as LowRank
from dtheta.federate.codecs.registry import codec_of as codec_of
from dtheta.federate.codecs.sign import Sign as Sign
from dtheta.federate.codecs.ternary import Ternary as Ternary
from dtheta.federate.codecs.top_k import TopK as TopK
