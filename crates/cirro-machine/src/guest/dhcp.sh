#!/cirro/busybox sh
# Takes over what the DHCP server gave; udhcpc tells it in variables.
export PATH=/bin
[ "$1" = bound ] || exit 0
. /cirro/settings
[ -z "$mtu" ] || ip link set "$interface" mtu "$mtu"
ip addr add "$ip/${mask:-24}" broadcast + dev "$interface"
for gateway in $router; do
    # A gateway need not be in the subnet.
    ip route add "$gateway" dev "$interface"
    ip route add default via "$gateway" dev "$interface"
    break
done
{
    [ -z "$domain" ] || echo "search $domain"
    for server in $dns; do echo "nameserver $server"; done
} >/disk/etc/resolv.conf
printf '%s\t%s\n' "$ip" "$HOSTNAME" >>/disk/etc/hosts
