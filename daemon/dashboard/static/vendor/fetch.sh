#!/bin/bash
# Fetch the chart library from the npm registry again (`make vendor`), and refuse it unless it is the one that README.md
# names: first the package against npm's own integrity string, then each file against its SHA-256.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

package=lightweight-charts version=5.2.1
integrity=sha512-IVwoK1RLFiLPubaKIjNbtjWLnpPMqiABSrTay6whmNa8L1+19292VtHJ+BWyPUuLCwF0tcQlhEWd1CLB2a1nsQ==
into=$package-$version
fetched=$(mktemp -d)
trap 'rm -rf "$fetched"' EXIT

npm pack --silent --ignore-scripts --pack-destination "$fetched" "$package@$version" >/dev/null
found=sha512-$(openssl dgst -sha512 -binary "$fetched/$into.tgz" | base64 -w 0)
if [ "$found" != "$integrity" ]; then
  echo "vendor: $package@$version has integrity $found, expected $integrity: nothing was changed" >&2
  exit 1
fi
tar -xzf "$fetched/$into.tgz" -C "$fetched"
mkdir "$fetched/$into"
cp "$fetched/package/dist/lightweight-charts.standalone.production.js" "$fetched/package/LICENSE" "$fetched/$into/"
(cd "$fetched" && sed -n 's/^| `\(.*\)` | `\([0-9a-f]\{64\}\)` |$/\2  \1/p' "$OLDPWD/README.md" | sha256sum --check --strict)
mkdir -p "$into"
cp "$fetched/$into"/* "$into/"
echo "vendor: $into is what README.md names"
