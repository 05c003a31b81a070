"""Files on disk to an `ImageStore`: contracts, decoding, the cache and random changes of images."""
