"""Prompts: new vectors at named sites of a text model, trained beside it.

    sources     free vectors, P-tuning's reparametrization, DePT's low-rank table       sources.py
    sites       prompt.input, prompt.input.offset..., prefix.LAYER.key, .value          names.py
    families    decoders, encoders, encoder-decoders of transformers                    family.py
    columns     where virtual tokens stand in a batch, and what follows                 layout.py
    forwards    how they get there: by public inputs only            forward.py, decoder.py, encoder.py, generate.py

    rows        every row of a batch with its own prompt                      bank.py, rows.py, uneven.py
    budgets     which length and rank fit a time                              step_cost.py, budget.py

A method names its sources by site (tuning.py, dept.py, adept.py, p_tuning.py, prefix_tuning.py) and never sees model
code; offsets by token instead of position are token_wise.py.

Of image-text models (coop.py, cocoop.py, vpt.py, upt.py):

    sites       prompt.text, prompt.visual.LAYER, and networks that make them       image_names.py, mixer.py
    towers      CLIPModel, DualEncoder, open_clip                                   towers.py
    forwards    context around a name, columns behind [CLS]                 context.py, columns.py, conditional.py
    bundle      what all prompts on one model add up to                             tower_bundle.py, tower_wiring.py
"""
