"""The entropy codec of sparse ternary vectors: two bit planes in, bytes close to their entropy out, in any range back.

    payload.py               encode, decode, decode_range, decode_int8
    chunks.py                the byte layout: header, table of chunks, checks
    rice.py                  nonzeros as numbers, and numbers as a bit string U and fields F
    rans.py                  entropy coding of U under a binomial model
    tables.py                the model in integers, and tables of bits
    encode_*, decode_*.py    the chunks, by compiled kernels or by NumPy

Both ways write the same bytes and read each other's; ``dtheta/core/compiled.py`` says which one runs.
"""
