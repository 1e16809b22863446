"""Prompts: new vectors at named sites of a text model, trained beside it.

    sources     free vectors, P-tuning's reparametrization, DePT's low-rank table       sources.py
    sites       prompt.input, prompt.input.offset..., prefix.LAYER.key, .value          names.py
    families    decoders, encoders, encoder-decoders of transformers                    family.py
    columns     where virtual tokens stand in a batch, and what follows                 layout.py
    forwards    how they get there: by public inputs only            forward.py, decoder.py, encoder.py, generate.py

A method names its sources by site (tuning.py, dept.py, p_tuning.py, prefix_tuning.py) and never sees model code.
"""
