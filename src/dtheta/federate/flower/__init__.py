"""Flower as an engine: the same server and clients simulated, deployed, or in one process.

    app.py:   server = server_app(run, clients=8)      run(engine, context) calls dt.federate(..., engine=engine)
              client = client_app(make_client)         make_client(context) returns the dt.Client of a node

Needs the extra "federated"; ``import dtheta`` does not import Flower.
"""

from dtheta.federate.flower.client import client_app
from dtheta.federate.flower.engine import FlowerEngine
from dtheta.federate.flower.local import LocalGrid
from dtheta.federate.flower.server import server_app

__all__ = ["FlowerEngine", "LocalGrid", "client_app", "server_app"]
