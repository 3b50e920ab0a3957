# Read by the other scripts: go to the repository's root and put its virtual environment first, where there is one.
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ -z "${VIRTUAL_ENV:-}" ] && [ -d .venv ]; then
  PATH="$PWD/.venv/bin:$PATH"
fi
