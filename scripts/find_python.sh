#!/bin/sh
# Print the path of a Python that is new enough, or say what is missing.
for name in ${PYTHON:-} python3.11 python3.12 python3.13 python3; do
    path=$("$name" -c 'import sys, venv, ensurepip
if sys.version_info < (3, 11): sys.exit(1)
print(sys.executable)' 2>/dev/null) && echo "$path" && exit 0
done
echo "No Python 3.11 or newer with venv found (tried python3.11, 3.12, 3.13, python3)." >&2
echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2
exit 1
