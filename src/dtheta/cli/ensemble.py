"""Forecast with many members, score them against what happened, and run one of them again.

  dtheta ensemble run       members of networks and perturbed starts, from one or several starts, into one zarr folder
  dtheta ensemble verify    score a run: CRPS, spread and error, ranks, events, spectra, with intervals; and a page
  dtheta ensemble replay    run one member alone and compare it, bit for bit, with what was stored

To begin, with a small chaotic model that is its own truth, then with the networks that come with dtheta:

  dtheta ensemble run --model lorenz96 --members 16 --out run.zarr
  dtheta ensemble verify run.zarr --report page.html
  dtheta ensemble replay run.zarr --member 7 --start 0
  dtheta ensemble run --model qg-sfno --members 16 --perturbation bred --days 10 --starts 4 --out qg.zarr

A network and data of your own: 'dtheta ensemble run --help'.
"""
