"""What is taken from Flower, in one place; importing this module takes seconds and needs the extra "federated".

Flower sends usage figures and looks for updates unless told not to; dtheta tells it not to, before it is imported. The
commands ``flower-superlink``, ``flower-supernode`` and ``flwr`` are programs of their own: there, the two variables are
the user's to set.
"""

from __future__ import annotations

import os
from typing import TypeAlias

from dtheta.errors import MissingExtra

os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")

try:
    from flwr import app, clientapp, serverapp  # pyright: ignore[reportMissingImports]  # the checks run without it
except ImportError as missing:
    raise MissingExtra(
        "the Flower engine needs flwr 1.42 or newer: pip install 'dtheta[federated]' in an environment of its own, "
        "since flwr pins versions of rich, protobuf and others"
    ) from missing

Array: TypeAlias = app.Array
ArrayRecord: TypeAlias = app.ArrayRecord
ClientApp: TypeAlias = clientapp.ClientApp
ConfigRecord: TypeAlias = app.ConfigRecord
Context: TypeAlias = app.Context
Error: TypeAlias = app.Error
Grid: TypeAlias = serverapp.Grid
Message: TypeAlias = app.Message
RecordDict: TypeAlias = app.RecordDict
ServerApp: TypeAlias = serverapp.ServerApp
