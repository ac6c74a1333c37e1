# The files of a model, each a fixed-output path of its own: a flat file whose hash is its SHA-256, which is what Hugging Face
# publishes as the LFS oid of a file.
#
# Type: AttrSet -> Derivation of the file, if it is one, else AttrSet; with
#   files   place in the model's directory -> derivation of one file, for `files` of buildModel
#   model   what is known before the download: { facts, licence, files = [ { name, path, size, sha256 } ] }; the licence is
#           of the model's page or card, null where the facts have one
#
# A file is fetched by `windlass model add` or `windlass model fetch`, with the token of the user who runs them, or in the sandbox of
# its derivation, without any: no token is ever a part of a derivation. Both give the same path.
#
# Examples:
#   fetchModel { lock = ./models.lock.json; name = "smollm2"; }
#   fetchModel { hf = { repo = "org/repo"; revision = "0123…"; file = "q4/model.gguf"; }; sha256 = "b179…"; }
#   fetchModel { url = "https://models.example/model.gguf"; sha256 = "b179…"; }
#   buildModel { name = "smollm2"; src = fetchModel { lock = ./models.lock.json; name = "smollm2"; }; }
internal:
{
  # models.lock.json: its path, or what is in it.
  lock ? null,
  # With `lock`: the model in it. With `url` or `hf`: what the file is called, by default as it is there.
  name ? null,
  # Instead of `lock`: a file at an address,
  url ? null,
  # or one of Hugging Face: { repo, revision, file }. A revision that is not a commit may name other bytes some day, and then is
  # refused by the hash; nothing else happens.
  hf ? null,
  # Its SHA-256 in hex, and if they are known its size and what `windlass model inspect --json` says of it.
  sha256 ? null,
  size ? null,
  facts ? null,
}:
let
  inherit (builtins)
    attrNames
    concatStringsSep
    filter
    fromJSON
    head
    isAttrs
    isString
    length
    listToAttrs
    map
    match
    readFile
    replaceStrings
    split
    stringLength
    substring
    ;
  wrong = message: throw "fetchModel: ${message}";
  list = names: if names == [ ] then "none" else concatStringsSep ", " names;
  last = parts: builtins.elemAt parts (length parts - 1);
  words = separator: text: filter isString (split separator text);

  # The same rule as `fitting_name` in src/nix/store.rs.
  fileStoreName =
    text:
    let
      fitting = concatStringsSep "" (
        map (part: if isString part then part else "-") (split "[^a-zA-Z0-9+._?=-]" text)
      );
      long = stringLength fitting - 200;
      end = if long > 0 then substring long 200 fitting else fitting;
    in
    if match "[.].*" end != null || end == "" then "_${end}" else end;

  # What is known of files.
  knownOf = facts: licence: entries: {
    inherit facts licence;
    # Where they are fetched from, for `policy.models` of buildStack.
    urls = filter (url: url != null) (map (entry: entry.url or null) entries);
    files = map (entry: {
      inherit (entry)
        name
        path
        size
        sha256
        ;
    }) entries;
  };

  derivationOf =
    entry: hint:
    internal.derive {
      # Hash and name make the path, wherever it is from.
      inherit (entry) name;
      hash =
        if isString entry.sha256 && match "[0-9a-f]{64}" entry.sha256 != null then
          entry.sha256
        else
          wrong "${entry.name}: sha256 is not 64 lower-case hex digits, as `sha256sum` and Hugging Face write it";
      action = {
        action = "fetchModel";
        inherit (entry) size;
        inherit hint;
        urls = if entry.url or null == null then [ ] else [ entry.url ];
        digest = "sha256:${entry.sha256}";
        file = entry.path;
      };
    };

  result =
    facts: licence: entries: hint:
    let
      file =
        entry:
        let
          derivation = derivationOf entry hint;
        in
        derivation
        // {
          files.${entry.path} = derivation;
          model = knownOf facts licence [ entry ];
        };
      files = listToAttrs (
        map (entry: {
          name = entry.path;
          value = file entry;
        }) entries
      );
    in
    if length entries == 1 then
      files.${(head entries).path}
    else
      {
        inherit files;
        model = knownOf facts licence entries;
      };

  # A file by itself.
  single =
    address: defaultName: reference:
    let
      fileName = fileStoreName (if name == null then defaultName else name);
    in
    if sha256 == null then
      wrong "${address} needs its sha256; `windlass model add ${reference}` finds it out, and writes a lock"
    else
      result facts null [
        {
          name = fileName;
          path = fileName;
          url = address;
          inherit size sha256;
        }
      ] (
        # What is called otherwise than at its place is not what `model add` puts into the store.
        if fileName == fileStoreName defaultName then
          "windlass model add ${reference}"
        else
          "nix-store --add-fixed sha256 ${fileName}"
      );

  locked =
    let
      content = if isAttrs lock then lock else fromJSON (readFile lock);
      model =
        if content.version or null != 1 then
          wrong "the lock is of version ${toString (content.version or "?")}, and this windlass knows version 1; update windlass"
        else if name == null then
          wrong "a lock needs the name of a model; there are: ${list (attrNames content.models)}"
        else
          content.models.${name}
            or (wrong "there is no model '${name}' in the lock; there are: ${list (attrNames content.models)}");
      isLocal = filter (entry: entry.url or null == null) model.files != [ ];
      # From the model's page, or from the card beside its files, where their headers do not say it.
      licence = if model.facts.licence or null == null then model.licence or null else null;
    in
    result (model.facts or null) licence model.files (
      if isLocal then "windlass model add ${model.source.ref}" else "windlass model fetch ${name}"
    );

  hub =
    let
      revision = hf.revision or "main";
      # All that is not plain in a path of an address.
      escaped = replaceStrings [ "%" " " "#" "?" "+" "[" "]" ] [ "%25" "%20" "%23" "%3F" "%2B" "%5B" "%5D" ];
      reference = "hf:${hf.repo}@${replaceStrings [ "/" ] [ "%2F" ] revision}/${hf.file}";
    in
    single
      "${hf.endpoint or "https://huggingface.co"}/${hf.repo}/resolve/${
        replaceStrings [ "/" ] [ "%2F" ] revision
      }/${escaped hf.file}"
      (last (words "/" hf.file))
      reference;

  given = filter (way: way != null) [
    lock
    url
    hf
  ];
in
if length given != 1 then
  wrong "name one of lock, url and hf"
else if lock != null then
  locked
else if url != null then
  single url (last (words "/" (head (words "[?#]" url)))) url
else
  hub
