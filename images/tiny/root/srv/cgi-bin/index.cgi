#!/bin/sh
# The web server's only page: who answers.
printf 'Content-Type: text/plain\r\n\r\n'
hostname
