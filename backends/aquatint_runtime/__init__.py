"""The KServe custom runtime: a diffusers pipeline behind the same contract as the Triton models.

It must never import ``tritonclient.grpc``, which cannot live in one process with kserve (kserve issue 3099).
"""
