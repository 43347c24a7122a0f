#!/bin/bash
# lowest.sh NAME...: does a package work with the oldest versions its pyproject.toml allows? Import and smoke reproduction
# in an environment of its own. Old wheels are gigabytes, so this is no part of `make test-all`.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
uv=$(command -v uv || echo "$root/.tools/uv/bin/uv")
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
unset VIRTUAL_ENV PYTHONDONTWRITEBYTECODE
(cd "$root" && "$uv" build --all-packages --wheel --quiet --out-dir "$place/wheels")
for name in "$@"; do
  echo "== $name with its oldest versions"
  mkdir "$place/$name"
  cd "$place/$name"
  # the core's own requirements are direct ones too: it is installed with every package
  for member in "$root/packages/$name" "$root/shared-core"; do
    mkdir "$(basename "$member")"
    sed '/^\[tool.uv.sources\]/,/^$/d' "$member/pyproject.toml" > "$(basename "$member")/pyproject.toml"
  done
  "$uv" pip compile --quiet --resolution lowest-direct --python-version 3.11 --find-links "$place/wheels" \
    "$name/pyproject.toml" shared-core/pyproject.toml --output-file lowest.txt
  "$uv" venv --quiet --python 3.11 venv
  "$uv" pip sync --quiet --python venv --find-links "$place/wheels" lowest.txt
  "$uv" pip install --quiet --python venv --no-deps "$place/wheels/${name//-/_}"-*.whl
  venv/bin/python -c "import ${name//-/_} as m; [getattr(m, name) for name in m.__all__]"
  venv/bin/"$name" reproduce --scale smoke --quiet --out run > out.txt 2>&1 || { code=$?; [ $code = 1 ] && [ -f run/result.json ]; } \
    || { tail -5 out.txt; exit 1; }
  rm -rf "$place/$name"
done
