"""Every pair of formats and every option, read back by independent tools.

disks.py    seeded guest disks, made to sit on the edges of units
cases.py    sources (made by qemu-img), targets (what diskfmt writes), and which of them a quick run takes
verify.py   an output against everything that can be known about it
"""
