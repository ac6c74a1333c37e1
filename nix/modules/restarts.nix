# When systemd starts a container anew that ended: after a second, then ever later, up to a minute.
#
# Type: AttrSet, keys of a [Service] section
#
# So a container that always fails never comes to systemd's start limit (5 starts in 10 s), after which nothing but a
# person starts it again, and does not keep the machine busy either.
{
  RestartSec = "1s";
  RestartSteps = 5;
  RestartMaxDelaySec = "1min";
}
