"""Environment processes: numpy, gymnasium, cloudpickle and multiprocessing, never torch.

Import the submodules directly; this file stays empty so that a child process can set its thread
limits (`workers.bootstrap`) before anything imports numpy.
"""
