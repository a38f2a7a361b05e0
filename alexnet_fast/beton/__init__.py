"""The file: the FFCV v2 format, its reader, its writer."""
