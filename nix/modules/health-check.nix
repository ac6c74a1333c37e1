# Whether a health check passes whatever the container does: `true`, `exit 0`, `curl … || true`. The same rules as `cannot_fail` in
# src/spec/service_words.rs.
#
# Type: [ string ] -> bool
command:
let
  inherit (builtins)
    elem
    elemAt
    head
    length
    match
    tail
    ;
  base = word: elemAt (match "(.*/)?([^/]*)" word) 1;
  strip =
    words:
    if
      words != [ ]
      && elem (base (head words)) [
        "env"
        "busybox"
      ]
    then
      strip (tail words)
    else
      words;
  words = strip command;
  program = base (head words);
  # `sh -c SCRIPT`, with other options before it or in one word with it.
  after =
    rest:
    if length rest < 2 then
      null
    else if match "-[a-z]*c" (head rest) != null then
      elemAt rest 1
    else
      after (tail rest);
  script = builtins.replaceStrings [ "\n" ] [ ";" ] (after (tail words));
  passes = "((/usr)?/bin/)?(true|:|exit +0)";
  rules = [
    "[^;&]*\\|\\| *${passes} *;? *"
    "[^;&|]*; *${passes} *;? *"
  ];
in
words != [ ]
&& (
  elem program [
    "true"
    ":"
    "echo"
    "printf"
  ]
  ||
    elem program [
      "sh"
      "bash"
      "ash"
      "dash"
    ]
    && after (tail words) != null
    && (
      match " *(${passes}|((/usr)?/bin/)?(echo|printf)( [^|&;$`<>]*)?) *;? *" script != null
      || builtins.any (rule: match rule script != null) rules && match ".*(exit +[^0 ]|set +-).*" script == null
    )
)
