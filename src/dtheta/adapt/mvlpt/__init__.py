"""MVLPT: prompts shared over image tasks (Shen et al. 2022, arXiv 2211.11720), and which tasks help which.

    learning     train a prompt on one task, or one on several, from a method's start or from a source prompt
    transfer     gains over task pairs with intervals, partners, groups
    clusters     average linkage
    predictors   cheap guesses of the gains, and how well they rank them

The prompts themselves (CoOp, VPT, UPT) are methods of ``adapt.prompts``; the network over several tasks is
``models.multitask_images``. Source prompts of several seeds are averaged as any deltas: ``(a + b + c) / 3``.
"""
