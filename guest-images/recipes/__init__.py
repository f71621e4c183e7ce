"""Recipes for the images that guests and emulated hosts boot from.

What is here fetches Debian packages, unpacks kernels, collects modules and packs
initramfs archives. What is made goes to the cache directory, never into the tree.
"""
