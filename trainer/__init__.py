"""What the recipes share. Runs on Linux and macOS."""

import os
import sys

if not hasattr(os, "register_at_fork"):
    sys.exit("Windows is not supported: run this in WSL, on Linux or on macOS")
