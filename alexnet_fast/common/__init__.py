"""What every room uses: text and files of others, command lines, the console, this machine's cores and page cache."""
