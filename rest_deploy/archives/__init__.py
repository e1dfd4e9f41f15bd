"""Archives of images to files of results: by shards on one machine each, or on many by Ray.

    sources ──> Listing: each image once, in order, in blocks ──> rows of a block, here or on Ray's machines ──> Results
    `------------------- sources.py ----------------------'      `------ run.py, on_ray.py ---------'      `results.py'

A block of images is the unit of everything. Its images run together wherever it runs, so that their scores do not
depend on the shard, on what was done before a restart, or on the number of machines: the sums of a network's layers are
taken in another order for another number of images.
"""
