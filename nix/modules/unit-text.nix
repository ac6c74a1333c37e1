# Text that becomes part of a unit or of a Quadlet file: the one place that quotes it.
#
# Type: { lib } -> { raw, word, words, line, isLine }
#
# raw:    a value of a key that is taken as it is, with specifiers and variables of systemd switched off
# word:   one word of a key that is split as a command line is
# words:  several
# line:   what -> text -> text: the text, if it is one line; else evaluation fails with what it is
# isLine: whether it is: a line ends at \n and at \r, and goes on after a \ at its end
{ lib }:
let
  # JSON knows every character by its number; Nix' own strings do not.
  hex = n: builtins.substring 0 1 (builtins.substring (n / 16) 1 digits) + builtins.substring (lib.mod n 16) 1 digits;
  digits = "0123456789abcdef";
  char = n: builtins.fromJSON ''"\u00${hex n}"'';
  controls = builtins.genList (n: n + 1) 31 ++ [ 127 ];
in
rec {
  raw = builtins.replaceStrings [ "%" "$" ] [ "%%" "$$" ];

  word =
    text:
    if builtins.match "[A-Za-z0-9@:/._=,+-]+" text != null then
      text
    else
      "\"${
        builtins.replaceStrings ([ "\\" "\"" "\n" ] ++ map char controls) (
          [ "\\\\" "\\\"" "\\n" ] ++ map (n: "\\x${hex n}") controls
        ) (raw text)
      }\"";
  words = lib.concatMapStringsSep " " word;

  isLine = text: builtins.match "[^[:cntrl:]]*" text != null && builtins.match ".*\\\\" text == null;
  line =
    what: text:
    if isLine text then
      text
    else
      throw "${what}: ${builtins.toJSON text} is not one line of a unit: it has a line break or another control character, or a \\ at its end";
}
