# Makes one unit of the demo package set: unpacks Debian packages and ties what is
# in them to the store. Run by busybox; nothing of the machine is used.
#
# debs      .deb files, in the order of names
# deps      store paths of the units that libraries and interpreters are taken from
# modules   store paths that may hold Python or Perl modules this unit needs
# loader    path of glibc's dynamic loader; empty for glibc itself
# shell     path of a shell for scripts and wrappers; empty where there is none yet
# triplet   Debian's name of the directory for libraries
# fixup     shell commands to run in the end
# unit      name of the unit
# outputs   names of the outputs; a variable of each name holds its path
set -eu

top=${NIX_BUILD_TOP:-$TMPDIR}
tools=$top/tools
mkdir "$tools"
"$seeds/bin/busybox" --install -s "$tools"
export PATH="$tools:$seeds/bin" LC_ALL=C
umask 022

all_outputs=
for output in $outputs; do
    eval "all_outputs=\"\$all_outputs \$$output\""
done
has_output() { case " $outputs " in *" $1 "*) true ;; *) false ;; esac }

# -- unpack -------------------------------------------------------------------

# Moves the contents of directory $1 into directory $2, which may have the same ones.
merge() {
    local entry
    mkdir -p "$2"
    for entry in "$1"/* "$1"/.[!.]*; do
        if [ -d "$entry" ] && [ ! -L "$entry" ] && [ -d "$2/${entry##*/}" ]; then
            merge "$entry" "$2/${entry##*/}"
        elif [ -e "$entry" ] || [ -L "$entry" ]; then
            mv -f "$entry" "$2/"
        fi
    done
    rmdir "$1"
}

# A second package may put a file where the first has a directory of /usr, so the
# two layouts are merged package by package.
tree=$top/tree
mkdir "$tree"
: >"$top/postinst"
for deb in $debs; do
    mkdir "$top/deb" "$top/control"
    dpkg-deb -x "$deb" "$top/deb"
    dpkg-deb -e "$deb" "$top/control"
    if [ -f "$top/control/postinst" ]; then cat "$top/control/postinst" >>"$top/postinst"; fi
    rm -r "$top/control"
    for directory in usr sbin usr/sbin games; do
        if [ -d "$top/deb/$directory" ]; then
            case $directory in
            usr) merge "$top/deb/usr" "$top/deb" ;;
            *) merge "$top/deb/$directory" "$top/deb/bin" ;;
            esac
        fi
    done
    merge "$top/deb" "$tree"
done

cd "$tree"
# What only a running Debian, or a person at a desk, has a use for. The licences
# have to go with the programs.
if [ -d share/doc ]; then
    find share/doc \( -type f ! -name copyright -o -type l \) -exec rm {} +
fi
rm -rf share/lintian share/bug share/menu share/doc-base share/info share/locale \
    share/binfmts lib/binfmt.d lib/sysctl.d lib/systemd lib/tmpfiles.d lib/udev lib/valgrind \
    lib/debug lib64 var run etc/init.d etc/cron.daily etc/apt etc/dpkg etc/sysctl.d
has_output man || rm -rf share/man

# -- alternatives -----------------------------------------------------------------

# Some names of programs are links that Debian makes when it installs a package, with
# update-alternatives. They are read from the script that does so, which is not run;
# names that it computes are left to fixups.
sed -e ':a' -e '/\\$/{' -e 'N' -e 's/\\\n/ /' -e 'ta' -e '}' "$top/postinst" | awk '
    function literal(path) { return path ~ /^\/[A-Za-z0-9._+\/-]+$/ }
    /update-alternatives/ {
        for (i = 1; i <= NF; i++)
            if (($i == "--install" || $i == "--slave") && literal($(i + 1)) && literal($(i + 3)))
                print $(i + 1), $(i + 3)
    }' >"$top/alternatives"
while read -r link path; do
    case $link in
    /bin/* | /sbin/* | /usr/bin/* | /usr/sbin/* | /usr/games/*) ;;
    *) continue ;;
    esac
    if [ -e "bin/${path##*/}" ] && [ ! -e "bin/${link##*/}" ] && [ ! -L "bin/${link##*/}" ]; then
        ln -s "${path##*/}" "bin/${link##*/}"
    fi
done <"$top/alternatives"

# -- outputs --------------------------------------------------------------------

# Moves files of the tree, if there are any, to the output $1.
move_to() {
    local output=$1 path
    shift
    has_output "$output" || return 0
    eval "local target=\$$output"
    for path in "$@"; do
        if [ -e "$path" ] || [ -L "$path" ]; then
            mkdir -p "$(dirname "$target/$path")"
            mv "$path" "$target/$path"
        fi
    done
}
move_to dev include bin/*-config share/aclocal lib/"$triplet"/pkgconfig lib/"$triplet"/*.a
if has_output dev; then
    for path in lib/"$triplet"/*.so; do
        if [ -L "$path" ]; then move_to dev "$path"; fi
    done
fi
move_to man share/man
move_to bin bin
# Deepest first, so that a directory that only held empty ones goes too.
find . -type d | sort -r | xargs rmdir 2>/dev/null || true
mkdir -p "$tree"
cd "$top"
for output in $all_outputs; do mkdir -p "$output"; done
merge "$tree" "$out"

# -- programs and libraries -----------------------------------------------------

mkdir "$top/providers"
: >"$top/missing"

# Sets $provider to the directory of a library. Only directories that provide
# something are ever named, so that Nix sees exactly the references there are.
find_library() {
    local base known=$top/providers/$1
    provider=
    if [ -e "$known" ]; then
        read -r provider <"$known"
        return
    fi
    for base in $all_outputs $deps; do
        if [ -e "$base/lib/$triplet/$1" ]; then provider=$base/lib/$triplet; break; fi
        if [ -e "$base/lib/$1" ]; then provider=$base/lib; break; fi
    done
    if [ -z "$provider" ]; then
        provider=$(find $all_outputs -name "$1" ! -type d | head -n 1)
        [ -n "$provider" ] || for base in $deps; do
            for provider in "$base/lib/$triplet"/*/"$1" "$base"/lib/*/"$1" ''; do
                if [ -e "$provider" ]; then break 2; fi
            done
        done
        provider=${provider%/*}
    fi
    if [ -n "$provider" ]; then echo "$provider" >"$known"; fi
}

patch_program() {
    local file=$1 needed library search=
    case ${file##*/} in
    # The loader and the C library need nothing, and bear no change.
    ld-linux* | libc.so.6) return ;;
    esac
    needed=$(patchelf --print-needed "$file" 2>/dev/null) || return 0
    for library in $needed; do
        case $library in ld-linux*) continue ;; esac
        find_library "$library"
        if [ -z "$provider" ]; then
            case ${file#"$output/"} in
            lib/"$triplet"/perl/* | lib/"$triplet"/perl5/*) ;;
            lib/"$triplet"/*/*)
                # A plugin, whose library Debian recommends and does not require.
                echo "$unit: removed ${file#"$output/"}, which needs $library"
                rm "$file"
                return
                ;;
            esac
            echo "$library, for ${file#"$output/"}" >>"$top/missing"
            continue
        fi
        case ":$search:" in *":$provider:"*) ;; *) search=${search:+$search:}$provider ;; esac
    done
    set --
    if [ -n "$loader" ] && patchelf --print-interpreter "$file" >/dev/null 2>&1; then
        set -- --set-interpreter "$loader"
    fi
    if [ -n "$search" ]; then
        set -- "$@" --set-rpath "$search"
    else
        set -- "$@" --remove-rpath
    fi
    patchelf "$@" "$file"
}

# Sets $interpreter to the path of a command that scripts name, or to nothing.
find_interpreter() {
    local base
    interpreter=
    for base in $all_outputs $deps; do
        if [ -x "$base/bin/$1" ]; then interpreter=$base/bin/$1; return; fi
    done
    case $1 in sh | dash) interpreter=$shell ;; esac
}

# Scripts start programs, and read files, of their own package by paths below /usr.
patch_paths() {
    local file=$1 path base
    for path in $(grep -o '/usr/[A-Za-z0-9._+/-]*' "$file" | sort -u); do
        for base in $all_outputs $deps; do
            if [ -f "$base/${path#/usr/}" ]; then
                path=$(echo "$path" | sed 's/[.+]/\\&/g')
                sed -i -E -e ':a' -e \
                    "s,(^|[^A-Za-z0-9._+}/-])/usr(${path#/usr})(\$|[^A-Za-z0-9._+/-]),\1$base\2\3," \
                    -e 'ta' "$file"
                break
            fi
        done
    done
}

patch_script() {
    local file=$1 line rest name base env= libraries=
    patch_paths "$file"
    read -r line <"$file" || true
    rest=${line#\#!}
    set -f
    set -- $rest
    set +f
    [ $# -gt 0 ] || return 0
    case $1 in */env) [ $# -gt 1 ] || return 0; env=yes; shift ;; esac
    name=${1##*/}
    shift
    find_interpreter "$name"
    if [ -z "$interpreter" ]; then
        [ -z "$env" ] || return 0
        # Of another package, which the image may have too: in its root that is in /bin.
        interpreter=/bin/$name
    fi
    sed -i "1s|.*|#!$interpreter${*:+ $*}|" "$file"
    case $name in
    perl*)
        for base in $modules; do
            for base in "$base/share/perl5" "$base/lib/$triplet"/perl5/*; do
                if [ -d "$base" ]; then libraries="$libraries '$base',"; fi
            done
        done
        if [ -n "$libraries" ]; then sed -i "1a use lib$libraries ();" "$file"; fi
        ;;
    esac
}

elf=$(printf '\177ELF')
for output in $all_outputs; do
    find "$output" -type f \( -perm -100 -o -name '*.so' -o -name '*.so.*' \) >"$top/files"
    while IFS= read -r file; do
        magic=
        IFS= read -r -n 4 magic <"$file" || true
        case $magic in
        "$elf") patch_program "$file" ;;
        '#!'*) patch_script "$file" ;;
        esac
    done <"$top/files"
done
if [ -s "$top/missing" ]; then
    echo "$unit: libraries that no dependency has (add their packages to \"needs\" of $unit in"
    echo "packages.json):"
    cat "$top/missing"
    exit 1
fi

# -- symlinks -------------------------------------------------------------------

# Debian's links may be absolute, or lead to a directory that is another output or
# another unit here. Those that lead nowhere are removed.
fix_link() {
    local output=$1 link=$2 target base
    target=$(readlink "$link")
    case $target in
    /nix/store/*) return ;;
    /*) ;;
    *)
        if [ -e "$link" ]; then return; fi
        target=${link#"$output"}
        target=${target%/*}/$(readlink "$link")
        ;;
    esac
    target=$(echo "$target" | sed -e 's,/\./,/,g' -e ':a' -e 's,/[^/]*[^/.][^/]*/\.\./,/,' -e 'ta' \
        -e 's,^/usr/,/,' -e 's,^/sbin/,/bin/,' -e "s,^/lib64/,/lib/$triplet/,")
    for base in $all_outputs $deps; do
        if [ -e "$base$target" ] && [ "$base$target" != "$link" ]; then
            ln -sfn "$base$target" "$link"
            return
        fi
    done
    echo "$unit: removed ${link#"$output/"}, a link to ${target#/} of another package"
    case $link in "$output"/bin/*) echo "${link#"$output/"}, a link to $target" >>"$top/lost" ;; esac
    rm "$link"
}
: >"$top/lost"
for output in $all_outputs; do
    find "$output" -type l >"$top/links"
    while IFS= read -r link; do fix_link "$output" "$link"; done <"$top/links"
done

# -- Python modules ---------------------------------------------------------------

# A program finds the modules of the packages in its image below the image's root;
# those that they need are named by a file that Python reads there.
packages=lib/python3/dist-packages
if [ -d "$out/$packages" ]; then
    for base in $modules; do
        if [ -d "$base/$packages" ]; then echo "$base/$packages"; fi
    done >"$out/$packages/$unit.pth"
    [ -s "$out/$packages/$unit.pth" ] || rm "$out/$packages/$unit.pth"
fi

# -- what is particular to the unit ---------------------------------------------

# Replaces a string in a binary by one of the same length, wherever it occurs.
replace_in() {
    local file=$1 old=$2 new=$3 offset
    if [ ${#old} != ${#new} ]; then
        echo "$unit: '$new' is not as long as '$old'"
        exit 1
    fi
    strings -t d -n ${#old} "$file" | awk -v old="$old" '{
        match($0, /^ *[0-9]+ /)
        start = $1
        text = substr($0, RLENGTH + 1)
        while (position = index(text, old)) {
            print start + position - 1
            start += position
            text = substr(text, position + 1)
        }
    }' >"$top/offsets"
    if [ ! -s "$top/offsets" ]; then
        echo "$unit: '$old' is not in $file"
        exit 1
    fi
    chmod u+w "$file"
    while read -r offset; do
        printf %s "$new" | dd of="$file" bs=1 seek="$offset" conv=notrunc 2>/dev/null
    done <"$top/offsets"
}

# Whether an output has a program, bin/NAME.
has_program() {
    local base
    for base in $all_outputs; do
        if [ -e "$base/$1" ]; then return; fi
    done
    return 1
}

# wrap PROGRAM REAL [COMMAND...]: makes PROGRAM a script that runs COMMANDs and
# then REAL.
wrap() {
    local program=$1 real=$2
    shift 2
    rm -f "$program"
    {
        echo "#!$shell"
        for command; do echo "$command"; done
        echo "exec $real \"\$@\""
    } >"$program"
    chmod 755 "$program"
}

eval "$fixup"

# -- what leads nowhere ------------------------------------------------------------

while IFS= read -r line; do
    if ! has_program "${line%%,*}"; then echo "$line"; fi
done <"$top/lost" >"$top/missing"
find $all_outputs -type l | while IFS= read -r link; do
    if [ ! -e "$link" ]; then echo "$link, a link to $(readlink "$link")"; fi
done >>"$top/missing"
if [ -s "$top/missing" ]; then
    echo "$unit: links that lead nowhere (add the packages that they lead to to \"needs\" of $unit"
    echo "in packages.json, or mend them in fixups.nix):"
    cat "$top/missing"
    exit 1
fi
