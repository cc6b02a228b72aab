for program in vswitch mvirt-vswitch
    complete -c $program -f
    complete -c $program -o ports -x -d 'TCP ports, one VLAN each'
    complete -c $program -o daemon -d 'Run in the background'
    complete -c $program -o pid-file -r -F -d 'Where the process id is kept'
    complete -c $program -o log-file -r -F -d 'Append the log to a file'
    complete -c $program -o log-level -x -a 'error warn info debug trace' -d 'What is logged'
    complete -c $program -o status -d 'Say whether the daemon runs, and what each VLAN carries'
    complete -c $program -o stop -d 'End the daemon, and wait for its end'
    complete -c $program -o stats-port -x -d 'Serve statistics by HTTP on 127.0.0.1'
    complete -c $program -o version -d 'Print the version'
    complete -c $program -o help -s h -d 'Print all flags'
end
