"""server_app: a federation as a Flower ServerApp."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from dtheta.federate.flower.engine import FlowerEngine
from dtheta.federate.flower.package import Context, Grid, ServerApp


def server_app(
    run: Callable[[FlowerEngine, Context], Any], clients: int | Sequence[str], *, wait: float = 600.0
) -> ServerApp:
    """Return a Flower ServerApp that runs a federation.

    Args:
        run: (engine, context) -> anything; it calls ``dt.federate(server, engine=engine, ...)`` and keeps what it
            wants to keep, in a folder or a file. ``context.run_config`` has what ``flwr run --run-config`` said.
        clients: Names, or how many; as for ``FlowerEngine``.
        wait: Seconds until all must have connected.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        run(FlowerEngine(grid, clients, wait=wait), context)

    return app
