# From `steadfast validate -o json` to GitHub's annotations: each problem and warning at its line.
#   steadfast validate -o json | jq -r -f .github/annotate.jq
def data: gsub("%"; "%25") | gsub("\r"; "%0D") | gsub("\n"; "%0A");
def property: data | gsub(":"; "%3A") | gsub(","; "%2C");
def place: "file=\(.file | property),line=\([.line, 1] | max),col=\([.column, 1] | max)";
def said: (if .path == "" then "" else .path + ": " end) + .message + (if .help then "; " + .help else "" end) | data;
(.problems[]? | "::error \(place)::\(said)"),
(.warnings[]? | "::warning \(place)::\(said)")
