"""What a cluster costs beside the work, as measured: for the time of a job before it is begun.

Measured by ``benchmarks/cluster.py`` on two processors; see `docs/cluster.md`.
"""

# From the connection to the first job: Ray itself, and a worker's imports.
START_S = 10.0
# Of all processes for each job, and of the driver alone, for its share of that and for taking the results.
JOB_S = 0.002
DRIVER_IMAGE_S = 0.0004
# The histograms of a job of the pass, which the driver adds up.
DRIVER_PASS_JOB_S = 0.02
