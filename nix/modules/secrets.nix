# Whether a value that everybody on the host can read looks like a secret, by the table that `windlass build` has as well
# (src/secrets/patterns.json): the name of the variable, the shape of a token, a password in a URL.
#
# Type: { lib } -> String -> String -> Bool
#
# Example:
#   looksSecret "OPENAI_API_KEY" "sk-…"   true
#   looksSecret "API_KEY_FILE" "/run/x"   false
{ lib }:
let
  inherit (builtins)
    any
    elem
    filter
    isString
    length
    match
    split
    ;
  table = builtins.fromJSON (builtins.readFile ../../src/secrets/patterns.json);
  of = table.variables;
  # The same as is_secret_name in src/secrets/values.rs.
  isSecretName =
    name:
    let
      words = filter (word: isString word && word != "") (split "[^A-Z0-9]+" (lib.toUpper name));
      isWord =
        word:
        any (part: lib.hasInfix part word) of.words
        || any (ending: lib.hasSuffix ending word) of.endings
        || elem word of.whole
        || (elem word of.notAlone && length words > 1);
      isKey = first: second: elem first of.kindsOfKey && elem second of.keys;
      pairs = lib.zipListsWith isKey words (lib.drop 1 words);
    in
    words != [ ]
    && !(elem (lib.last words) of.about)
    && (elem (lib.last words) of.last || any isWord words || any (pair: pair) pairs);
  isPlaceholder =
    small:
    match "[$][{]?[a-z0-9_]*[}]?" small != null
    || match "<.*>" small != null
    || any (word: lib.hasPrefix word small) table.placeholders;
  # A word of the alphabet alone, as long as a token is: whether it is random, as src/secrets/table.rs asks, is not.
  isToken =
    value:
    any (
      token:
      let
        rest = "[${token.alphabet}]{${toString token.min}}";
      in
      lib.hasInfix token.prefix value
      && match "(.*[^A-Za-z0-9_-])?${lib.escapeRegex token.prefix}${rest}.*" value != null
    ) table.tokens;
  hasPassword = value: match ".*://[^/@:]*:[^/@$][^/@]*@.*" value != null;
in
name: value:
let
  small = lib.toLower value;
in
isToken value
|| hasPassword value
|| (!(elem small table.nothing) && !(isPlaceholder small) && isSecretName name)
