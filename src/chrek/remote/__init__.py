"""Artifacts on a server: an S3 bucket, or a repository of an OCI registry.

uri          `s3://...` and `oci://...` as users write them
backend      what such a server must be able to do; `bucket` and `repository` do it
chunking     files of an artifact -> chunks, which follow memory areas
table        chunks of all files of an artifact: binary, fixed width
places       where they lie in packs: the same
pack         a chunk as it is stored, compressed where that pays
seal         encryption
upload       a stage -> packs, tables and manifest, within a bounded amount of memory
download     the way back, verified
store        the same interface as `chrek.store`, over a cache on the node
"""
