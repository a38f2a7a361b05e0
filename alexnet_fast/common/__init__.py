"""What every room uses: untrusted text and files, command lines, the console, this machine's cores and page cache."""
