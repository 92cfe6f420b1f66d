"""
Compare strategies for cutting closures into layers by their cost for clients.

    python -m tests.benchmarks.layering [--seeds N] [--json]

Takes a frozen package graph, two sets of images, the clients that pull them for a year,
and three histories of updates (``tests/benchmarks/data``), cuts all images by each
strategy, and adds up what has to be transferred and kept.  No image is built.

- ``workload`` reads the data;
- ``measures`` defines and computes the measures;
- ``ours`` asks this project's own layering;
- ``peers`` has the strategies of others, written anew from their descriptions;
- ``study`` has their results in the study that chose the strategy, which the peers must
  reproduce before a comparison with them means anything, and the limits that ours has
  to keep;
- ``fresh`` draws other images, clients and histories of the same kind.
"""
