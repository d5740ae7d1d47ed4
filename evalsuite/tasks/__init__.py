"""Built-in tasks: one file per data set, a NAME.yaml or a module with TASKS.

Every task states source, licence, version, an example row made up here, and which published
numbers its scores may stand beside. The data themselves are not here: --data-dir says where.
"""
