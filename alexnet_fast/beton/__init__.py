"""The file: the FFCV v2 format and its reader."""
