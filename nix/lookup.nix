# Looks packages up in a package set, and instantiates their derivations.
#
#   packages  the package set, as package_set.nix returns it
#   system    the system that the packages run on
#   config    JSON: the `config` argument of the package set
#
# These are given once, and return a function of what is asked; all that it makes of the
# set, such as indexes of names, is made once for all calls:
#
#   names     JSON: a list of { name, path, exact, optional }; `path` is the name, split
#             at its dots
#   guard     "true": a package that throws becomes an error of its own;
#             "false": it ends the evaluation, and Nix prints why (`tryEval` tells
#             that something was thrown, and never what)
#
# The function returns { found, outputs }.
#
# `found` is { answers, levels }.  There is one answer for each name, in their order: a
# package, or { error, ... }.  `levels` has the attribute names of each set in which
# a name was not found that is not optional, by the JSON of the set's attribute path:
# they are many, and several names may be missing from one set.
#
# All strings in `found` are UTF-8, whatever the package set has.
#
# `outputs` are the chosen ones of the packages that were found, to be built.
{ packages, system, config ? "{}" }:

let
  inherit (builtins)
    all any appendContext attrNames concatLists concatStringsSep deepSeq elem elemAt filter
    fromJSON genList hasContext head isAttrs isInt isList isString length listToAttrs mapAttrs
    match parseDrvName removeAttrs replaceStrings seq stringLength substring tail toJSON tryEval
    typeOf;

  inherit (import ./text.nix) onlyTexts toText;

  settings = fromJSON config;

  # `value` if `check` can be evaluated and likes it.  `check` decides how deep it
  # looks: what lies deeper in a package's `meta` may well throw.
  get = check: default: value:
    let liked = tryEval (check value);
    in if liked.success && liked.value then value else default;

  isDerivation = value: isAttrs value && get isString "" (value.type or "") == "derivation";

  # -- names ------------------------------------------------------------------

  letters = text: map (at: substring at 1 text) (genList (at: at) 26);

  fold = replaceStrings
    (letters "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    (letters "abcdefghijklmnopqrstuvwxyz");

  # Nix has it built in from version 2.5 on.
  groupBy = builtins.groupBy or (by: list: listToAttrs (map
    (item: { name = by item; value = filter (other: by other == by item) list; })
    list));

  # Finds those of many names that differ from one in nothing but case.  Folding takes
  # longest: only names of the same length are folded.
  foldedIndex = names: mapAttrs (_: groupBy fold) (groupBy (name: toString (stringLength name)) names);
  spellings = index: name: index.${toString (stringLength name)}.${fold name} or [ ];

  hasDot = name: replaceStrings [ "." ] [ "" ] name != name;

  # A set (or another value) with what look-ups need of it.  All of it is made when it
  # is needed, and once for all names: a set may have tens of thousands of attributes.
  nodeOf = value: rec {
    inherit value;
    names = attrNames value;
    index = foldedIndex names;
    indexWithDot = foldedIndex (filter hasDot names);
    children = mapAttrs (_: nodeOf) value;
  };

  # The attributes of a set that `name` may mean.  Repository names have no upper case,
  # and Nix has no identifiers that begin with a digit.
  pick = exact: node: name:
    let
      digit = match "[0-9].*" name != null;
      spelled = spellings (if hasDot name then node.indexWithDot else node.index);
    in
    if node.value ? ${name} then [ name ]
    else if exact then [ ]
    else if digit && node.value ? "_${name}" then [ "_${name}" ]
    else spelled name ++ (if digit then spelled "_${name}" else [ ]);

  # The attributes that the longest possible beginning of `parts` may mean, and how many
  # parts that is: dots separate attributes, and may be part of their names.
  pickLongest = exact: node: parts: count:
    let found = pick exact node (concatStringsSep "." (genList (elemAt parts) count));
    in
    if found != [ ] || count == 1 then { inherit found count; }
    else pickLongest exact node parts (count - 1);

  root = nodeOf packages;

  # -- packages ---------------------------------------------------------------

  isStrings = value: isList value && all isString value;

  outputsOf = package: get isStrings [ "out" ] (package.outputs or [ "out" ]);

  # Documentation is of no use in a container.
  documentation = [ "man" "doc" "devman" "devdoc" "info" ];

  installed = package: meta:
    let
      outputs = outputsOf package;
      marked = get isStrings [ ] (meta.outputsToInstall or [ ]);
      chosen = filter (output: elem output outputs && !elem output documentation) marked;
    in
    if get (value: value == true) false (package.outputSpecified or false) then [ package.outputName ]
    else if chosen != [ ] then chosen
    else if elem "out" outputs then [ "out" ]
    else [ (head outputs) ];

  # Why a package may not be used, or null.  nixpkgs makes such packages throw when
  # they are built, which says nothing that could be told apart; and `meta` can be
  # read where the package cannot.  `meta.available` is nixpkgs' own judgement by
  # the configuration that is in force, and wins.
  refusal = package: meta:
    let
      flag = name: get (value: value == true) false (meta.${name} or false);
      list = name: get isList [ ] (meta.${name} or [ ]);
      allowed = name: settings.${name} or false == true;
      license = get (value: true) null (meta.license or null);
      licenses = if isList license then license else [ license ];
      isUnfree = license: license == "unfree" || isAttrs license && license.free or true == false;
      platforms = list "platforms";
      unsupported = flag "unsupported"
        || elem system (list "badPlatforms")
        || platforms != [ ] && all isString platforms && !elem system platforms;
      permitted = get isStrings [ ] (settings.permittedInsecurePackages or [ ]);
      insecure = flag "insecure" || list "knownVulnerabilities" != [ ];
    in
    if flag "available" then null
    else if (flag "unfree" || any isUnfree licenses) && !allowed "allowUnfree" then { error = "unfree"; }
    else if flag "broken" && !allowed "allowBroken" then { error = "broken"; }
    else if unsupported && !allowed "allowUnsupportedSystem" then { error = "unsupported"; }
    else if insecure && !elem (get isString "" package.name) permitted then {
      error = "insecure";
      reasons = map toText (get isStrings [ ] (meta.knownVulnerabilities or [ ]));
    } else null;

  declared = import ./declared.nix { inherit get; };

  describe = package: meta: path: outputs:
    let
      inherit (package) name drvPath;
      inherit (declared meta) cpe licenses;
      parsed = parseDrvName name;
      others = filter (output: !elem output outputs && package ? ${output}) (outputsOf package);
      withPath = output: { name = toText output; path = toText (package.${output} or package).outPath; };
    in
    {
      inherit path cpe licenses;
      name = toText name;
      pname = toText (get isString parsed.name (package.pname or parsed.name));
      version = toText (get isString parsed.version (package.version or parsed.version));
      description = toText (get isString "" (meta.description or ""));
      # nixpkgs' default; a lower number wins.
      priority = get isInt 5 (meta.priority or 5);
      # A path without context was written by hand: `appendContext` fails unless it is in the store.
      derivation = toText
        (if hasContext drvPath then drvPath else appendContext drvPath { ${drvPath}.path = true; });
      outputs = map withPath outputs;
      # They may be in the closure as well.
      otherOutputs = get (value: deepSeq value true) [ ] (map withPath others);
    };
in
{ names, guard ? "true" }:

let
  # What throws ends the evaluation unless it is guarded.
  attempt = if guard == "true" then tryEval else value: { success = true; inherit value; };

  # One step along an attribute path.  A state is { path, node, parent, rest }, where
  # `path` is spelled as the package set spells it and `rest` are the parts that are left,
  # or it has an `error`.
  step = exact: state:
    let
      here = attempt state.node.value;
      node = state.node;
      longest = pickLongest exact node state.rest (length state.rest);
      inherit (longest) found;
      missing = { error = "not-found"; inherit (state) path rest; };
    in
    if !here.success then { error = "evaluation"; inherit (state) path; }
    else if !isAttrs here.value then missing
    else if found == [ ] then
      if isDerivation here.value then {
        error = "no-such-output";
        inherit (state) path;
        output = head state.rest;
        outputs = onlyTexts (outputsOf here.value);
      } else missing // { siblings = node.names; }
    else if tail found != [ ] then {
      error = "ambiguous";
      inherit (state) path;
      candidates = map (name: state.path ++ [ name ]) found;
    } else {
      path = state.path ++ found;
      parent = here.value;
      node = node.children.${head found};
      rest = genList (at: elemAt state.rest (longest.count + at)) (length state.rest - longest.count);
    };

  walk = exact: state:
    if state ? error || state.rest == [ ] then state else walk exact (step exact state);

  find = wanted: walk wanted.exact {
    path = [ ];
    node = root;
    parent = null;
    rest = wanted.path;
  };

  answer = wanted:
    let
      end = find wanted;
      tried = attempt end.node.value;
      package = tried.value;
      meta = get isAttrs { } (package.meta or { });
      refused = get (value: isAttrs value) null (refusal package meta);

      # `curl.dev` is the output "dev" of the package `curl`.
      output = elemAt end.path (length end.path - 1);
      explicit = isDerivation end.parent
        && elem output (outputsOf end.parent)
        && get isString "" (package.outputName or "") == output;
      path = if explicit then genList (elemAt end.path) (length end.path - 1) else end.path;

      description = describe package meta path
        (if explicit then [ output ] else installed package meta);
      described = attempt (deepSeq description description);
    in
    if end ? error then (if wanted.optional then removeAttrs end [ "siblings" ] else end)
    else if !tried.success then { error = "evaluation"; inherit (end) path; }
    else if !isDerivation package then {
      error = "not-a-package";
      inherit (end) path;
      type = if isAttrs package && package ? __functor then "lambda" else typeOf package;
    }
    else if refused != null then refused // { inherit path; }
    else if !described.success then { error = "evaluation"; inherit path; }
    else described.value;

  answers = map answer (fromJSON names);
in
seq packages {
  found = {
    answers = map (one: removeAttrs one [ "siblings" ]) answers;
    levels = listToAttrs (concatLists (map
      (one: if one ? siblings then [ { name = toJSON one.path; value = onlyTexts one.siblings; } ] else [ ])
      answers));
  };

  # As little of a derivation as Nix takes for one: what else packages say of
  # themselves may throw.
  outputs = concatLists (map
    (one: map
      (output: {
        type = "derivation";
        inherit (one) name;
        drvPath = one.derivation;
        outPath = output.path;
        outputName = output.name;
      })
      one.outputs)
    (filter (one: one ? outputs) answers));
}
