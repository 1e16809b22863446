"""Inserted networks: small networks behind modules of a model, trained beside it.

    h <- h + network(h)          h is the output of a module; of several networks there, each sees the same h

    places      after attention and after the MLP of every block, before the residual is added       places.py
    names       MODULE.snnk.FEATURES.psi, MODULE.houlsby.FUNCTION.up, ...                            names.py
    networks    random features and what weighs them; a bottleneck          random_features.py, bottleneck.py
    wiring      a forward hook, one a module                                                         wiring.py

No module of the model is replaced or renamed, and no weight of it is moved. What a network does is in the names of its
vectors, so a file needs nothing else, and only alike ones add up. A method (snnk.py, houlsby.py beside this package)
gives the vectors at their start.
"""
