"""Other kernels: Debian's, booted under qemu with virtme-ng, to run the tests or any command in."""
