"""Every paper's headline claim as an experiment: one file a paper, ``run`` and ``judge``. See :mod:`thalweg.claims.engine`."""
