"""Files that are elsewhere: fetched once into a cache on a local disk that all processes of a host share."""
