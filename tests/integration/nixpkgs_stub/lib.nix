# As much of nixpkgs' library as the packaging uses: options and definitions are checked
# and merged as there. What is not here is not known to be there.
let
  inherit (builtins)
    all
    any
    attrNames
    concatMap
    elem
    elemAt
    filter
    foldl'
    genList
    head
    intersectAttrs
    isAttrs
    isBool
    isFloat
    isFunction
    isInt
    isList
    isPath
    isString
    length
    listToAttrs
    mapAttrs
    match
    removeAttrs
    stringLength
    substring
    ;

  show = builtins.concatStringsSep ".";
  unique = foldl' (seen: item: if elem item seen then seen else seen ++ [ item ]) [ ];
  isPackage = value: isAttrs value && (value.type or "") == "derivation";

  # -- definitions --------------------------------------------------------------

  kind = value: if isAttrs value then value._type or "" else "";

  # What lies below a set of definitions, without asking for conditions yet: they may
  # depend on what is defined here.
  push =
    value:
    if kind value == "if" then
      map (mapAttrs (_: mkIf value.condition)) (push value.content)
    else if kind value == "merge" then
      concatMap push value.contents
    else if kind value == "override" then
      map (mapAttrs (_: mkOverride value.priority)) (push value.content)
    else
      [ value ];

  discharge =
    value:
    if kind value == "if" then
      if value.condition then discharge value.content else [ ]
    else if kind value == "merge" then
      concatMap discharge value.contents
    else if kind value == "override" then
      map (item: item // { inherit (value) priority; }) (discharge value.content)
    else
      [
        {
          inherit value;
          priority = 100;
        }
      ];

  # The values that count, of all that were given for one option.
  prevailing =
    definitions:
    let
      given = concatMap discharge definitions;
      best = foldl' (low: item: if item.priority < low then item.priority else low) 10000 given;
    in
    map (item: item.value) (filter (item: item.priority == best) given);

  mkIf = condition: content: {
    _type = "if";
    inherit condition content;
  };
  mkMerge = contents: {
    _type = "merge";
    inherit contents;
  };
  mkOverride = priority: content: {
    _type = "override";
    inherit priority content;
  };

  # -- types --------------------------------------------------------------------

  # `merge` takes the option's path and at least one value.
  leaf = name: check: {
    inherit name check;
    merge =
      path: values:
      if !all check values then
        throw "A definition for option `${show path}' is not of type `${name}'."
      else if length (unique values) != 1 then
        throw "The option `${show path}' has conflicting definition values."
      else
        head values;
  };

  number = value: isInt value || isFloat value;

  types = rec {
    str = leaf "string" isString;
    lines = str // {
      merge = path: values: builtins.concatStringsSep "\n" (map (item: str.merge path [ item ]) values);
    };
    bool = leaf "boolean" isBool;
    int = leaf "integer" isInt;
    path = leaf "path" (
      value: isPath value || (isString value && substring 0 1 value == "/") || isPackage value
    );
    package = leaf "package" isPackage;
    port = leaf "port" (value: isInt value && value >= 0 && value <= 65535);
    anything = leaf "anything" (_: true);
    enum = values: leaf "one of ${builtins.toJSON values}" (value: elem value values) // { inherit values; };
    ints = {
      positive = leaf "positive integer" (value: isInt value && value > 0);
      unsigned = leaf "unsigned integer" (value: isInt value && value >= 0);
      between = low: high: leaf "integer between" (value: isInt value && value >= low && value <= high);
    };
    numbers = {
      positive = leaf "positive number" (value: number value && value > 0);
      nonnegative = leaf "nonnegative number" (value: number value && value >= 0);
    };
    either = one: other: leaf "${one.name} or ${other.name}" (value: one.check value || other.check value);
    nullOr = inner: {
      name = "null or ${inner.name}";
      check = value: value == null || inner.check value;
      merge =
        path: values:
        if all (value: value == null) values then
          null
        else if any (value: value == null) values then
          throw "The option `${show path}' is both null and not null."
        else
          inner.merge path values;
    };
    listOf = inner: {
      name = "list of ${inner.name}";
      check = isList;
      merge =
        path: values:
        if !all isList values then
          throw "A definition for option `${show path}' is not of type `list of ${inner.name}'."
        else
          map (item: inner.merge path [ item ]) (concatMap (value: value) values);
    };
    attrsOf = inner: {
      name = "attribute set of ${inner.name}";
      check = isAttrs;
      merge =
        path: values:
        if !all isAttrs values then
          throw "A definition for option `${show path}' is not of type `attribute set of ${inner.name}'."
        else
          let
            sets = concatMap push values;
            names = unique (concatMap attrNames sets);
            given = name: prevailing (concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets);
          in
          listToAttrs (
            map (name: {
              inherit name;
              value = inner.merge (path ++ [ name ]) (given name);
            }) (filter (name: given name != [ ]) names)
          );
    };
    submodule = module: {
      name = "submodule";
      check = isAttrs;
      options = module.options;
      merge = path: values: evaluate path module.options values;
    };
  };

  # -- modules ------------------------------------------------------------------

  isOption = value: kind value == "option";

  evaluate =
    path: options: definitions:
    if isOption options then
      let
        values = prevailing definitions;
      in
      if values != [ ] then
        options.type.merge path values
      else if options ? default then
        options.type.merge path [ options.default ]
      else
        throw "The option `${show path}' is used but not defined."
    else
      let
        sets = concatMap push definitions;
        unknown = filter (name: !(options ? ${name})) (concatMap attrNames sets);
      in
      if unknown != [ ] then
        throw "The option `${show (path ++ [ (head unknown) ])}' does not exist."
      else
        mapAttrs (
          name: inner:
          evaluate (path ++ [ name ]) inner (
            concatMap (set: if set ? ${name} then [ set.${name} ] else [ ]) sets
          )
        ) options;

  joinOptions =
    one: other:
    one
    // mapAttrs (
      name: inner:
      if !(one ? ${name}) then
        inner
      else if isOption inner || isOption one.${name} then
        throw "The option `${name}' is declared twice."
      else
        joinOptions one.${name} inner
    ) other;

  evalModules =
    {
      modules,
      specialArgs ? { },
    }:
    let
      read =
        module:
        let
          value = if isFunction module then module arguments else module;
          whole = value ? options || value ? config || value ? imports;
          stray = removeAttrs value [
            "options"
            "config"
            "imports"
          ];
        in
        if isPath module || isString module then
          read (import module)
        else if value ? options || value ? config then
          if stray != { } then
            throw "Module has an unsupported attribute `${head (attrNames stray)}'."
          else
            concatMap read (value.imports or [ ])
            ++ [
              {
                options = value.options or { };
                config = value.config or { };
              }
            ]
        else
          concatMap read (if whole then value.imports else [ ])
          ++ [
            {
              options = { };
              config = stray;
            }
          ];
      all = concatMap read modules;
      options = foldl' joinOptions { } (map (module: module.options) all);
      config = evaluate [ ] options (map (module: module.config) all);
      arguments = specialArgs // {
        inherit config options lib;
      };
    in
    {
      inherit config options;
    };

  lib = {
    inherit
      all
      attrNames
      concatMap
      elem
      elemAt
      evalModules
      filter
      foldl'
      genList
      head
      length
      mapAttrs
      mkIf
      mkMerge
      mkOverride
      types
      ;
    inherit unique;
    inherit (builtins) attrValues concatLists concatStringsSep;

    mkOption =
      {
        type,
        default ? null,
        defaultText ? null,
        example ? null,
        description,
      }@option:
      option // { _type = "option"; };
    mkEnableOption =
      description:
      lib.mkOption {
        type = types.bool;
        default = false;
        description = "Whether to enable ${description}.";
      };
    mkDefault = mkOverride 1000;
    mkForce = mkOverride 50;
    literalMD = text: { inherit text; };

    concatMapStringsSep =
      separator: function: list:
      builtins.concatStringsSep separator (map function list);
    filterAttrs =
      keep: set:
      listToAttrs (
        map (name: {
          inherit name;
          value = set.${name};
        }) (filter (name: keep name set.${name}) (attrNames set))
      );
    genAttrs =
      names: function:
      listToAttrs (
        map (name: {
          inherit name;
          value = function name;
        }) names
      );
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      stringLength text >= stringLength suffix
      && substring (stringLength text - stringLength suffix) (-1) text == suffix;
    imap0 = function: list: genList (at: function at (elemAt list at)) (length list);
    mapAttrsToList = function: set: map (name: function name set.${name}) (attrNames set);
    mapAttrs' =
      function: set: listToAttrs (map (name: function name set.${name}) (attrNames set));
    nameValuePair = name: value: { inherit name value; };
    intersectLists = one: filter (item: elem item one);
    optional = condition: value: if condition then [ value ] else [ ];
    optionalAttrs = condition: set: if condition then set else { };
    splitString =
      separator: text:
      filter isString (builtins.split (builtins.replaceStrings [ "." ] [ "\\." ] separator) text);
    makeBinPath = packages: builtins.concatStringsSep ":" (map (package: "${package}/bin") packages);

    fileset = {
      # They are checked to be there, and remembered.
      toSource =
        { root, fileset }:
        if builtins.pathExists root then { inherit root fileset; } else throw "no ${toString root}";
      unions = map (
        path: if builtins.pathExists path then toString path else throw "no ${toString path}"
      );
      fileFilter = predicate: path:
        if
          predicate {
            name = "x.py";
            type = "regular";
            hasExt = extension: extension == "py";
          }
        then
          path
        else
          throw "fileFilter leaves out what is needed";
    };

    licenses.mit = {
      spdxId = "MIT";
    };
    platforms.linux = [
      "x86_64-linux"
      "aarch64-linux"
    ];
  };
in
lib
