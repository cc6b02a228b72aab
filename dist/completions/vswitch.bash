_vswitch() {
    case $3 in
    -pid-file | -log-file) mapfile -t COMPREPLY < <(compgen -f -- "$2") ;;
    -log-level) mapfile -t COMPREPLY < <(compgen -W "error warn info debug trace" -- "$2") ;;
    -ports | -stats-port) COMPREPLY=() ;;
    *)
        mapfile -t COMPREPLY < <(compgen -W "-ports -daemon -pid-file -log-file -log-level -status -stop -stats-port
            -version -help -h" -- "$2")
        ;;
    esac
}
complete -F _vswitch vswitch mvirt-vswitch
